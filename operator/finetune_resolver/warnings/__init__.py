"""What a person may want to act on before the run."""
