"""The documents at the top of the repository agree with the package."""

import re
import tomllib
from pathlib import Path

import yaml

import resnet_jax

ROOT = Path(__file__).resolve().parents[1]


def test_the_newest_entry_of_the_changelog_and_the_citation_are_of_this_version():
    versions = re.findall(r'^## \[(.*)\]', (ROOT / 'CHANGELOG.md').read_text(), re.M)
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert versions[0] == citation['version'] == resnet_jax.__version__
    assert citation['license'] == tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['license']


def test_continuous_integration_runs_the_oldest_python_that_is_allowed_and_two_newer():
    job = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())['jobs']['test']
    oldest = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['requires-python'].removeprefix('>=')
    minor = int(oldest.removeprefix('3.'))
    assert job['strategy']['matrix']['python-version'] == [f'3.{minor + i}' for i in range(3)]
    assert {'run': 'make test'} in job['steps']


def test_commands_that_contributors_are_told_are_there():
    makefile = (ROOT / 'Makefile').read_text()
    commands = re.findall(r'^make ([\w-]+)', (ROOT / 'CONTRIBUTING.md').read_text(), re.M)
    assert len(commands) >= 5
    assert all(re.search(rf'^{command}:', makefile, re.M) for command in commands)
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    assert [hook['entry'].split('/')[-1] for hook in hooks] == ['ruff check --fix', 'ruff format', 'mypy']


def test_paths_that_the_documents_name_are_there():
    for document in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md')):
        text = document.read_text()
        for path in re.findall(r'`((?:resnet_jax|configs|bin|tests|docs)/[\w./-]*)', text):
            assert (ROOT / path.rstrip('./') if path[-1] == '.' else ROOT / path).exists(), f'{document.name}: {path}'
        for link in re.findall(r'\]\((?!http|#)([^)#]+)', text):
            assert (document.parent / link).exists(), f'{document.name}: {link}'


def test_every_name_of_the_public_api_is_there_and_says_what_it_does():
    assert sorted(resnet_jax.__all__) == resnet_jax.__all__
    for name in resnet_jax.__all__:
        value = getattr(resnet_jax, name)
        assert value.__doc__ and len(value.__doc__) > 20, name
        assert f'resnet_jax.{name}' in (ROOT / 'docs' / 'api.md').read_text(), name
