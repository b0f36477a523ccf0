"""ROOM smaller weights: schemes, quantized linears and their kernels. Needs torch (and, in `hf.py`, transformers)."""
