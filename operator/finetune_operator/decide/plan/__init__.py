"""From an accepted spec to the training plan, and what the plan is estimated to take."""
