"""One pass over one resource: gather what the cluster holds, decide, apply."""
