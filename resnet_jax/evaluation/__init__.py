"""Evaluates trained networks: metrics, predictions, robustness and explanations. Does not depend on training."""
