"""GPU memory and time of a plan, from the shape of the base model."""
