from pathlib import Path

import pytest

from resnet_jax.runtime.cache_folder import cache_dir


@pytest.mark.parametrize(
    ('own', 'xdg', 'expected'),
    [('/own', '/xdg', '/own'), ('', '/xdg', '/xdg/resnet_jax'), (None, '', '/home/me/.cache/resnet_jax')],
)
def test_the_nearest_variable_names_it(monkeypatch, own, xdg, expected):
    for name, value in {'RESNET_JAX_CACHE_DIR': own, 'XDG_CACHE_HOME': xdg, 'HOME': '/home/me'}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)
