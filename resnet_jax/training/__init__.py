"""Training: `loop.train_and_evaluate` is where to start reading."""
