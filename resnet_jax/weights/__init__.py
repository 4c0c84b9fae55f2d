"""Weights of PyTorch networks in and out, without torch, and as .safetensors."""

from resnet_jax.weights.load import load_variables
from resnet_jax.weights.save import save_safetensors, save_torch

__all__ = ['load_variables', 'save_safetensors', 'save_torch']
