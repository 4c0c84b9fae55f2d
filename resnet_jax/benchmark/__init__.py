"""Measures the speed of training and evaluation, and of the same network in PyTorch. Only PyTorch's process imports torch."""
