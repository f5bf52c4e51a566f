"""What crosses a process border: the resource, the plan, progress, outcome and the names on the wire.

In flow order: `resource` (what the user declares) → `plan` (what the trainer obeys) → `progress` and
`outcome` (what the trainer says) → `status` (what the user reads). `wire` holds every name that two
processes must agree on; `crd` generates the CustomResourceDefinition from the models.

This package stands on pydantic alone and does no I/O but writing generated files in `crd.main`.
"""
