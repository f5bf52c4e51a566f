"""`kubectl finetune`: explain and check a LanguageFinetune without a cluster.

In flow order: `manifests` (YAML as kubectl reads it) → `checking` (shape, rules, language tags) with
`field_names` and `wording` for its messages → the resolver → `rendering`. `app` wires the commands.

The CLI knows neither the operator nor the trainer, and talks to no cluster.
"""
