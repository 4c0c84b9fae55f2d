"""Reads and writes weights of PyTorch networks, without torch, and .safetensors."""

from resnet_jax.weights.files import read_tensors
from resnet_jax.weights.load import load_variables
from resnet_jax.weights.save import save_safetensors, save_torch

__all__ = ['load_variables', 'read_tensors', 'save_safetensors', 'save_torch']
