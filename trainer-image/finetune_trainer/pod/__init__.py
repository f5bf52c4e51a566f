"""The trainer's surroundings: environment, SIGTERM, progress reports, logs."""
