import shutil
from pathlib import Path

import resnet_jax
from resnet_jax.runtime.environment import environment, source_hash


def test_the_hash_tells_one_changed_byte_of_the_package(tmp_path, monkeypatch):
    before = source_hash()
    assert len(before) == 16 and source_hash() == before
    package = shutil.copytree(
        Path(resnet_jax.__file__).parent, tmp_path / 'package', ignore=shutil.ignore_patterns('__pycache__')
    )
    monkeypatch.setattr(resnet_jax, '__file__', str(package / '__init__.py'))
    assert source_hash() == before  # wherever it lies
    with (package / 'ops' / 'kernels' / 'kernels.h').open('a') as file:
        file.write('\n')
    assert source_hash() != before


def test_the_environment_names_versions_and_hardware():
    facts = environment()
    assert facts['packages']['jax'] and facts['devices'] == 4 and facts['device']
