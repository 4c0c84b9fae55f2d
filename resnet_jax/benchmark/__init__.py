"""Measures the speed of training and evaluation here and in PyTorch. Only PyTorch's process imports torch."""
