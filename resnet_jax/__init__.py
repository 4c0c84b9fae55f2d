"""Residual networks for JAX: models, training and evaluation on small images."""

__version__ = '0.1.0'
