"""Convolutions, pooling and sums as JAX primitives, with C kernels on the CPU and XLA's operations elsewhere."""
