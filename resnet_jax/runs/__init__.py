"""Writes and reads a run on disk: its folder, its checkpoints and its log."""
