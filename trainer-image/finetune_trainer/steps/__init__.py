"""What one optimizer step holds: sampler, batches, micro-batches, schedule, and what is reported of it."""
