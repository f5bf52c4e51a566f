"""Which engine, attention and micro-batch sizes this model and device get, and why."""
