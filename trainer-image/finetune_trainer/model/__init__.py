"""The base model with its adapter, loaded by Unsloth. `load` alone imports it."""
