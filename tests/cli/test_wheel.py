"""A source distribution, and the wheel built of it, hold the recipes as files, not as a link."""

import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from commands_support import ROOT

pytest.importorskip('setuptools', '77')

CONFIGS = {str(path.relative_to(ROOT)) for path in (ROOT / 'configs').rglob('*.py')}


def test_the_recipes_are_in_both(tmp_path):
    source, built = tmp_path / 'source', tmp_path / 'built'
    source.mkdir()
    built.mkdir()
    for name in ('resnet_jax', 'configs'):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)

    def build(kind, folder):
        code = f'from setuptools import build_meta; print(build_meta.build_{kind}({str(built)!r}))'
        done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, check=True)
        return built / done.stdout.splitlines()[-1]

    sdist = build('sdist', source)
    with tarfile.open(sdist) as archive:
        archive.extractall(built, filter='data')
    wheel = build('wheel', built / sdist.name.removesuffix('.tar.gz'))
    assert wheel.name == 'resnet_jax-0.2.0-py3-none-any.whl'
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    assert {f'resnet_jax/{name}' for name in CONFIGS} <= names
    assert {'resnet_jax/data/imagenet_classes.txt', 'resnet_jax/weights/digits/model.safetensors'} <= names
    kernels, templates = (ROOT / 'resnet_jax' / folder for folder in ('ops/kernels', 'report/templates'))
    needed = [*kernels.glob('*.[ch]'), *templates.glob('*'), *(ROOT / 'resnet_jax' / 'benchmark').glob('*.txtpb')]
    assert len(needed) > 5 and {str(path.relative_to(ROOT)) for path in needed} <= names
    assert {'resnet_jax/py.typed', 'resnet_jax/report/report.css', 'resnet_jax-0.2.0.dist-info/entry_points.txt'} <= names
    assert {f'resnet_jax/serve/page/page.{kind}' for kind in ('html', 'css', 'js')} <= names
    assert not [name for name in names if not name.startswith(('resnet_jax/', 'resnet_jax-0.2.0.dist-info/'))]
