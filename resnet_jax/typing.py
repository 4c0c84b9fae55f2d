"""Types that many modules use."""

from collections.abc import Mapping
from typing import Any

# A tree of arrays, such as parameters or their gradients. JAX has no type for one.
PyTree = Any
# What Flax calls variables: 'params' and 'batch_stats', each a tree of arrays.
Variables = Mapping[str, PyTree]
# A JSON object: a config, a result, what a file of a run holds. The second can be changed.
Json = Mapping[str, Any]
JsonDict = dict[str, Any]
# A row of metrics.jsonl: 'step', 'split' and metrics by name.
Row = JsonDict
