"""Reads and writes weights of PyTorch networks, without torch, and .safetensors."""

from resnet_jax.weights.load import load_variables
from resnet_jax.weights.save import save_safetensors, save_torch

__all__ = ['load_variables', 'save_safetensors', 'save_torch']
