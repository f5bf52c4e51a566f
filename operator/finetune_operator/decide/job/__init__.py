"""Where the Job and its pods stand, and what that means for the run."""
