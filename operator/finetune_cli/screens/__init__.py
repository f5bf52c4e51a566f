"""What the commands print: tables, plans, comparisons and languages, for a terminal, Markdown, JSON and YAML."""
