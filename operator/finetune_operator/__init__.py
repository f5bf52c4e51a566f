"""The operator: watches LanguageFinetunes and brings each to where its spec says.

    watch/ (kopf, reflector, queue) ─► reconcile/ (gather ─► decide/ ─► apply) ─► cluster/ (requests)
    pods ─► progress/ (status server, buffer, writer)

`decide` is pure: it answers what should be done and does nothing. Everything else observes or carries
out. `runtime` puts the parts together.
"""
