"""The site: it builds without a warning, and its pages are all in its contents."""

import os
import re
import subprocess
import sys

import pytest
from document_blocks import ROOT

DOCS = ROOT / 'docs'


def test_every_page_is_in_the_contents():
    listed = re.findall(
        r'^(\w+)$', '\n'.join(re.findall(r'```{toctree}\n(.*?)```', (DOCS / 'index.md').read_text(), re.S)), re.M
    )
    assert sorted(listed) == sorted(path.stem for path in (*DOCS.glob('*.md'), *DOCS.glob('*.ipynb')) if path.stem != 'index')


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path):
    """As `make docs` does; a link within the site that leads nowhere, or a docstring that cannot be read, is a warning."""
    command = [
        sys.executable,
        '-m',
        'sphinx',
        '--fail-on-warning',
        '--keep-going',
        '--nitpicky',
        '--quiet',
        str(DOCS),
        str(tmp_path),
    ]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert 'resnet_jax.create_model' in (tmp_path / 'api.html').read_text()
    text = (tmp_path / 'commands.html').read_text()
    assert '--config.FIELD=VALUE' in text and '\N{EN DASH}config' not in text
