"""A run on disk: writing its folder, its checkpoints and its log, and reading them."""
