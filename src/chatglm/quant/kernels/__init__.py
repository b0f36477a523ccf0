"""Products with packed weights: a readable reference, native CPU kernels, Triton kernels. One layout for all."""
