"""Events in: kopf and the reflector keep a copy of the cluster and put the keys of changed resources into the queue."""
