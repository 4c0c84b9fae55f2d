"""How fast training and evaluation are, and beside them the same network in PyTorch. torch is imported only in its process."""
