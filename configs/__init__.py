"""Recipes: each module has `get_config()`, and its docstring says what result to expect."""
