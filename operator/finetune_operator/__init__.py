"""The operator: watches LanguageFinetunes and brings each to where its spec says.

    handlers, reflector ─► resource_cache, store ─► work_queue ─► reconciler: gather ─► decide ─► apply
    pods ─► status_server ─► progress_buffer ─► progress_writer

Everything that decides (`decide` and what it imports) is pure; everything else only observes or does
as it is told. `runtime` puts the parts together.
"""
