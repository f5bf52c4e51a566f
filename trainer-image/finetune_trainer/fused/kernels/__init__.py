"""Triton kernels of the fused stack."""
