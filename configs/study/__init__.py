"""Studies: each module has `get_study()`."""
