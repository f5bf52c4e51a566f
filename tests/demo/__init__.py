"""The demo: the main job on real input, from nothing to an adapter whose loss is lower.

In the order of the flow: `materials` (a real model and real Swahili text, made from registry
packages) → `storage` (their upload to S3) → `journey` (install, apply, watch, show) → `verdict`
(the adapter in plain PEFT, base against adapter). `__main__` times and names each step.
"""
