"""Packs small leaves into few arrays, so that a GPU launches fewer kernels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.typing import PyTree


def packing(like: PyTree) -> tuple[Callable[[PyTree], list[jax.Array]], Callable[[list[jax.Array]], PyTree]]:
    """Returns a function that packs trees with the structure, shapes and dtypes of `like`, and its inverse.

    A packed tree is one array `[size]` for all vectors and scalars of each dtype, followed by the other leaves.
    """
    leaves, structure = jax.tree.flatten(like)
    groups: dict[np.dtype, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if leaf.ndim < 2:
            groups.setdefault(leaf.dtype, []).append(i)
    others = [i for i, leaf in enumerate(leaves) if leaf.ndim >= 2]
    shapes = [leaf.shape for leaf in leaves]

    def pack(tree: PyTree) -> list[jax.Array]:
        leaves = jax.tree.leaves(tree)
        joined = [jnp.concatenate([leaves[i].reshape(-1) for i in group]) for group in groups.values()]
        return [*joined, *(leaves[i] for i in others)]

    def unpack(packed: list[jax.Array]) -> PyTree:
        leaves = dict(zip(others, packed[len(groups) :], strict=True))
        for group, array in zip(groups.values(), packed, strict=False):
            ends = np.cumsum([np.prod(shapes[i], dtype=int) for i in group])
            for i, part in zip(group, jnp.split(array, ends[:-1]), strict=True):
                leaves[i] = part.reshape(shapes[i])
        return jax.tree.unflatten(structure, [leaves[i] for i in range(len(shapes))])

    return pack, unpack
