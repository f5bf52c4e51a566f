"""Commands for resources that are in a cluster: status, wait, watch, logs, submit, suspend, resume.

`kubectl` is the client, with the context and the rights of its user; `finished` says pure of an object
whether its run has ended, `following` asks until it has.
"""
