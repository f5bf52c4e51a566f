"""The training loop: optimizer step, prefetch, evaluation, state between steps."""
