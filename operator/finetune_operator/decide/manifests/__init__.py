"""The Job, its pod and its ConfigMaps as plain dicts that read like their YAML."""
