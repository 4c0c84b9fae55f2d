"""Every block of Python in the documents runs, in the order of its page."""

import itertools

import pytest
from document_blocks import blocks

from resnet_jax.config import TrainConfig

_SLOW = {'explanations.md', 'export.md', 'finetuning.md', 'own_images.md', 'own_loop.md'}  # they compile much
_BY_PAGE = {page.name: [*group] for page, group in itertools.groupby(blocks('python'), key=lambda block: block.page)}
del _BY_PAGE['watching.md']  # training/test_loggers.py runs it, with the packages that it needs


def test_there_are_blocks():
    assert {'README.md', 'getting_started.md', 'own_network.md', 'winograd.md', *_SLOW} <= {*_BY_PAGE}


@pytest.mark.usefixtures('folder', 'registrations')
@pytest.mark.parametrize('page', [pytest.param(page, marks=[pytest.mark.slow] * (page in _SLOW)) for page in _BY_PAGE])
def test_the_blocks_of_a_page_run(page, request):
    if page == 'export.md':
        request.getfixturevalue('served')
    names = {'__name__': '__main__'}
    for block in _BY_PAGE[page]:
        exec(compile('\n' * block.line + block.text, block.page, 'exec'), names)
        if block.file and 'get_config' in names:
            TrainConfig.from_mapping(names.pop('get_config')())
