"""Leaves most cases of a long table to the slow tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def sample(cases: Iterable[Any], every: int) -> list[Any]:
    """Returns the cases for a `parametrize` of one name; all but every `every`-th, from the first on, are marked slow."""
    return [pytest.param(case, marks=pytest.mark.slow if index % every else ()) for index, case in enumerate(cases)]
