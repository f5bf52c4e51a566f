"""`kubectl finetune`: explain, check and plan a LanguageFinetune, and what is known of languages, offline.

In flow order: `manifests` (YAML as kubectl reads it) → `checking` (shape, rules, language tags) with
`field_names` and `wording` for its messages → the resolver → `rendering`. For `plan` and `compare`,
`model_files` and `local_text` bring what stands on this machine, `preview` puts it together, and
`planning` and `comparing` hold what comes out for `plan_rendering` and `compare_rendering`.
`languages` (the catalogue's view of a tag or a name) → `language_rendering`. `tables` is how all of
them draw, `app` wires the commands.

The CLI knows neither the operator nor the trainer, and talks to no cluster.
"""
