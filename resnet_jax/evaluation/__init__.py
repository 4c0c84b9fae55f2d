"""What a trained network answers: metrics, predictions, robustness, explanations. It does not know training."""
