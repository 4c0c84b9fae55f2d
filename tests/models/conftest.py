import jax
import pytest


@pytest.fixture(autouse=True)
def _quick_to_compile(request):
    """Compiles without most optimisations: a training step in 3 s instead of 20. Not where the compiler is the subject."""
    jax.config.update('jax_disable_most_optimizations', 'test_convolution' not in request.node.nodeid)
    yield
    jax.config.update('jax_disable_most_optimizations', False)
