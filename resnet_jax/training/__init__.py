"""Training; start reading at `loop.train_and_evaluate`."""
