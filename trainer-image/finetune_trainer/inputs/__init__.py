"""From the plan to tokenized rows: check, fetch, validate, tokenize."""
