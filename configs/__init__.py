"""Recipes: each module has `get_config()`, and its docstring states the expected result."""
