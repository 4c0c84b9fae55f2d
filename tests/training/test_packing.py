import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.training.packing import packing

TREE = {
    'step': jnp.int32(7),
    'params': {'kernel': jnp.arange(24.0).reshape(2, 3, 4), 'bias': jnp.arange(4.0)},
    'statistics': (jnp.float32(0.5), jnp.arange(3.0, dtype=jnp.bfloat16), jnp.arange(5) > 2),
    'nothing': {},
}


def equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)


def test_vectors_and_scalars_of_a_dtype_are_one_array():
    pack, unpack = packing(TREE)
    packed = pack(TREE)
    assert sorted((array.dtype.name, array.shape) for array in packed) == [
        ('bfloat16', (3,)),
        ('bool', (5,)),
        ('float32', (2, 3, 4)),
        ('float32', (5,)),
        ('int32', (1,)),
    ]
    equal(unpack(packed), TREE)
    equal(jax.jit(lambda tree: unpack(pack(tree)))(TREE), TREE)


def test_a_stack_of_trees_is_packed_by_vmap():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 1 - leaf.astype(leaf.dtype) if leaf.dtype != bool else ~leaf]), TREE)

    def there_and_back(tree):
        pack, unpack = packing(tree)
        return unpack(pack(tree))

    equal(jax.vmap(there_and_back)(stacked), stacked)
