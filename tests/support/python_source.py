"""Parses Python files."""

import ast
import gc


def parse(path):
    """Returns the syntax tree of a file."""
    # A collection within ast.parse may make it fail (python/cpython#106905), if what it frees has finalizers in Python.
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()
