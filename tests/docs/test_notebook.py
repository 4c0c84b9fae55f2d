"""The tutorial: it has been executed, what it names exists, and it runs from the first cell to the last."""

import ast
import os

import nbformat
import pytest
from document_blocks import ROOT

import resnet_jax

NOTEBOOK = nbformat.read(ROOT / 'docs' / 'tutorial.ipynb', as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == 'code']
# The sizes of the cell with the tag 'parameters', made small.
_SMALL = 'EPOCHS = 2\nCIFAR_IMAGES = 128\nCIFAR_EPOCHS = 1\n'
# Noise in the place of CIFAR-10, where there is none.
_NOISE = """
import dataclasses
import numpy as np
from resnet_jax import data
noise = data.find_dataset('synthetic_cifar10').dataset
train, test = noise.train.select(np.arange(256)), noise.test.select(np.arange(64))
few = dataclasses.replace(noise, name='cifar10', train=train, test=test)
data._DATASETS['cifar10'] = data._Entry(lambda options: few, few.info)
del noise
"""


def test_every_cell_has_been_executed_in_order_and_without_an_error():
    assert [cell.execution_count for cell in CODE] == [*range(1, len(CODE) + 1)]
    kinds = [output.output_type for cell in CODE for output in cell.outputs]
    assert 'error' not in kinds and kinds.count('display_data') >= 7
    text = ''.join(output.get('text', '') for cell in CODE for output in cell.outputs)
    assert '/work' not in text and '/home' not in text and '/root' not in text, 'a path of the machine that it ran on'


def test_what_the_cells_name_of_the_package_exists():
    tree = ast.parse('\n'.join(cell.source for cell in CODE))
    named = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'resnet_jax'
    }
    assert {'load_dataset', 'create_model', 'train_and_evaluate'} <= named <= {*resnet_jax.__all__}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('resnet_jax'):
            exec(compile(ast.Module([node], []), 'tutorial.ipynb', 'exec'), {})


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '1')
    monkeypatch.delenv('JAX_NUMPY_RANK_PROMOTION', raising=False)
    monkeypatch.delenv('MPLBACKEND', raising=False)  # the kernel sets its own, whose pictures are outputs
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    notebook = nbformat.from_dict(NOTEBOOK)
    for cell in notebook.cells:
        if 'parameters' in cell.metadata.get('tags', ()):
            names = [line.partition(' = ')[0] for line in _SMALL.splitlines()]
            assert all(f'\n{name} = ' in cell.source for name in names)
            cell.source += '\n' + _SMALL + ('' if 'TFDS_DATA_DIR' in os.environ else _NOISE)
    done = NotebookClient(
        notebook, timeout=900, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}}
    ).execute()
    text = ''.join(output.get('text', '') for cell in done.cells if cell.cell_type == 'code' for output in cell.outputs)
    assert 'plain, 34 layers: training loss' in text and 'd2l_resnet18: ' in text
