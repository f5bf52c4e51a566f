"""The steps of a reconcile: each answers what to do, or that the next step decides."""
