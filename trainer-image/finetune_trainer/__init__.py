"""The trainer: one plan in, one published adapter and one outcome out.

In flow order: `plan_check` → `fetch` → `validate` → `tokenization` → `model` → `train` → `evaluate` →
`export` → `publish`; `pipeline` alone knows this order, `__main__` starts it and writes the outcome.
`report` tells of progress. What rows and tokens are is `finetune_text`'s business. Only `model` imports Unsloth and only `s3` imports boto3.

This package obeys the plan: what changes the mathematics is never decided here. It knows nothing of
Kubernetes but its mounts, its environment and its termination message.
"""
