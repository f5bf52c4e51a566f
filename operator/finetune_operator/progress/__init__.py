"""Reports of running pods: received, authenticated, buffered, and written to `status.progress`."""
