"""What every step reads, and how a step answers."""
