"""Text: files become rows, rows become examples, examples become tokens and figures.

Shared by the trainer, which learns from the tokens, and by callers that only want the figures: the
Measure pod and the CLI. It opens files that somebody else brought; it knows no network, no
Kubernetes and no torch, and it never changes a text.
"""
