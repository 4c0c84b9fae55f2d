"""Types that many modules use."""

from collections.abc import Mapping
from typing import Any

# A pytree of arrays, such as parameters or their gradients. JAX has no type for it.
PyTree = Any
# Flax variables: 'params' and 'batch_stats', each a pytree of arrays.
Variables = Mapping[str, PyTree]
# A JSON object, such as a config, a result or the contents of a run's file; JsonDict is mutable.
Json = Mapping[str, Any]
JsonDict = dict[str, Any]
# A row of metrics.jsonl: 'step', 'split' and metrics by name.
Row = JsonDict
