"""From policy results and overrides to decisions with their reasons, and to the plan's training parameters."""
