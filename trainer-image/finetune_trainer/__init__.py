"""The trainer: one plan in, one published adapter and one outcome out.

In flow order: `inputs/` (plan, fetch, validate, tokenize) → `model/` (load) → `engine/` (which engine,
attention and micro-batches) → `training/` (the loop, over `steps/`) → `checkpoints/` → `publish/`.
`tasks/` knows this order; `__main__` starts a task and writes its outcome. `ranks/` serves several GPUs,
`storage/` S3, `pod/` the surroundings. What rows and tokens are is defined in `finetune_text`.

This package obeys the plan: nothing that changes the mathematics is decided here. It knows nothing of
Kubernetes but its mounts, its environment and its termination message.
"""
