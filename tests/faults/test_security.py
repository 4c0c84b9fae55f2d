"""Files that come from elsewhere are data: nothing in them is run, and nothing they name leaves their folder."""

import ast
import hashlib
import io
import json
import os
import shutil
import zipfile

import jax
import numpy as np
import pytest
import tensorstore
from commands_support import error_line
from faults_support import ROOT, TINY, edit, run
from PIL import Image
from run_files import write_folder

from resnet_jax.classifier import Classifier
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.runs import checkpoint
from resnet_jax.runs.checksums import checksums_text
from resnet_jax.runs.metadata import read_metadata
from resnet_jax.runtime.npz import read_npz

SOURCES = [path for folder in ('resnet_jax', 'bin', 'configs') for path in sorted((ROOT / folder).rglob('*.py'))]
MODULES = {'pickle', '_pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'jsonpickle'}
CALLS = {'eval', 'exec', '__import__', 'os.system', 'os.popen', 'torch.load', 'pandas.read_pickle', 'shutil.unpack_archive'}
CALLS |= {f'yaml.{name}' for name in ('load', 'load_all', 'unsafe_load', 'unsafe_load_all', 'full_load', 'full_load_all')}
CALLS |= {'numpy.loadtxt', 'numpy.genfromtxt', 'numpy.fromregex'}
METHODS = ('.extract', '.extractall')


def problems(source):
    """Whatever in a program could run what a file says, by line."""
    full = {}  # what a name in the program stands for
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full.update({a.asname or a.name: a.name for a in node.names})
        elif isinstance(node, ast.ImportFrom):
            full.update({a.asname or a.name: f'{node.module}.{a.name}' for a in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or '']
            yield from (f'{node.lineno}: imports {name}' for name in names if name.partition('.')[0] in MODULES)
        elif isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition('.')
            name = full.get(first, first) + dot + rest
            if name in CALLS or name.endswith(METHODS):
                yield f'{node.lineno}: calls {name}'
            arguments = [(keyword.arg, ast.unparse(keyword.value)) for keyword in node.keywords]
            if name == 'numpy.load' and len(node.args) > 2:
                arguments.append(('allow_pickle', ast.unparse(node.args[2])))
            for argument in arguments:
                if argument in (('allow_pickle', 'True'), ('shell', 'True'), ('weights_only', 'False')):
                    yield f'{node.lineno}: {argument[0]}={argument[1]}'


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_a_file_says(path):
    assert list(problems(path.read_text())) == []


@pytest.mark.parametrize(
    'source',
    [
        'import pickle', 'from pickle import loads', 'import joblib.numpy_pickle', 'eval(text)', 'exec(text)', 'yaml.load(f)',
        'np.load(f, allow_pickle=True)', 'torch.load(f, weights_only=False)', 'os.system(c)', 'run(c, shell=True)',
        'tarfile.open(f).extractall(d)', 'tar.extract(m, d)', 'import numpy as np; np.load(f, None, True)', 'yaml.load_all(f)',
        'from yaml import load; load(f)', 'from os import system as s; s(c)', 'import os as o; o.system(c)',
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source):
    assert list(problems(source))


def npz(path, **entries):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(f'{name}.npy', data)
    return path


def header(shape, dtype='<f4', data=b''):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {'descr': dtype, 'fortran_order': False, 'shape': shape})
    return file.getvalue() + data


def test_an_npz_file_that_claims_more_than_it_has(tmp_path):
    with pytest.raises(ValueError, match=r'claims .*1099511627776.* and has'):
        read_npz(npz(tmp_path / 'a.npz', x=header((2**40,))))


def test_an_npz_file_of_objects_is_not_run(tmp_path):
    ran = []

    class Bad:
        def __reduce__(self):
            return (ran.append, (1,))

    np.savez(tmp_path / 'a.npz', x=np.array([Bad()], object))
    with pytest.raises(ValueError):
        read_npz(tmp_path / 'a.npz')
    assert not ran


@pytest.mark.parametrize(
    'text',
    [
        "{'descr': '<f4', 'shape': (",
        '{[]: 1}',
        "{1: 2, 'a': 3}",
        '-' * 9000 + '1',
        "{'descr': '<f4,(', 'fortran_order': False, 'shape': (1,)}",
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {10**20 - 1})}}",
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': (-{10**20}, 1)}}",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,)}",
    ],
)
def test_an_npz_file_with_a_crafted_header(text, tmp_path):
    data = np.lib.format.magic(1, 0) + len(text).to_bytes(2, 'little') + text.encode()
    with pytest.raises(ValueError) as raised:
        read_npz(npz(tmp_path / 'a.npz', x=data))
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('data', [b'', b'PK\x03\x04', b'no zip'])
def test_an_npz_file_that_is_none(data, tmp_path):
    (tmp_path / 'a.npz').write_bytes(data)
    with pytest.raises(ValueError):
        read_npz(tmp_path / 'a.npz')


def test_a_sound_npz_file(tmp_path):
    np.savez(tmp_path / 'a.npz', x=np.arange(6).reshape(2, 3), name=np.array('text'))
    actual = read_npz(tmp_path / 'a.npz')
    np.testing.assert_array_equal(actual['x'], [[0, 1, 2], [3, 4, 5]])
    assert str(actual['name']) == 'text'


@pytest.fixture
def hostile(tmp_path):
    """A checkpoint whose sums fit, whoever wrote it; what is returned changes its metadata."""
    shutil.copytree(ROOT / 'tests' / 'faults' / 'format2' / 'checkpoints', tmp_path / 'run' / 'checkpoints')

    path = tmp_path / 'run' / 'checkpoints' / '10'

    def edited(change):
        edit(path, change)
        return path

    return edited


@pytest.mark.parametrize('step', ['../../secret', '10/../../..', -1, 1.5, None, [10]])
def test_a_step_in_a_checkpoint_is_a_number_and_no_path(step, hostile, tmp_path):
    hostile(lambda metadata: metadata['progress'].update(best={'step': step, 'accuracy': 1.0}))
    with pytest.raises(InputFileError, match='as best'):
        Classifier.load(tmp_path / 'run')


@pytest.mark.parametrize('name', ['../outside', '/etc/passwd', 'arrays/../../../outside'])
def test_a_name_in_the_sums_does_not_leave_the_folder(name, hostile, tmp_path):
    (tmp_path / 'outside').write_text('x')
    path = hostile(lambda metadata: None)
    lines = (path / 'SHA256SUMS').read_text().rpartition('# ')[0] + f'{"0" * 64}  {name}\n'
    (path / 'SHA256SUMS').write_text(lines + f'# {hashlib.sha256(lines.encode()).hexdigest()}\n')
    with pytest.raises(InputFileError, match='is missing'):
        checkpoint.verify(path)


@pytest.mark.parametrize(
    'change',
    [
        {'image_shape': [2**20, 2**20, 3]},
        {'image_shape': [8, 8]},
        {'image_shape': '8x8'},
        {'class_names': 10},
        {'class_names': [1, 2]},
        {'mean': []},
        {'std': ['1']},
    ],
    ids=str,
)
def test_a_data_set_that_claims_what_no_run_has(change, hostile, tmp_path):
    hostile(lambda metadata: metadata['dataset'].update(change))
    line = error_line(run('evaluate.py', f'--workdir={tmp_path / "run"}', code=3)) if 'image_shape' in change else ''
    assert not line or 'does not describe its data set' in line
    with pytest.raises(InputFileError, match='does not describe its data set'):
        Classifier.load(tmp_path / 'run')


@pytest.mark.parametrize('name', ['config', 'dataset', 'progress', 'environment'])
def test_metadata_without_a_part(name, hostile, tmp_path):
    hostile(lambda metadata: metadata.pop(name))
    with pytest.raises(InputFileError, match=f'has no {name}'):
        Classifier.load(tmp_path / 'run')


@pytest.mark.parametrize('name', ['step', 'best', 'pending', 'evaluation', 'seconds', 'changes'])
def test_progress_without_a_part(name, hostile, tmp_path):
    hostile(lambda metadata: metadata['progress'].pop(name))
    with pytest.raises(InputFileError, match='as progress'):
        Classifier.load(tmp_path / 'run')


@pytest.mark.parametrize(
    'change',
    [
        {'rollbacks': 'one'},
        {'rollbacks': 2000},
        {'seconds': -1},
        {'seconds': 10**400},
        {'seconds': float('inf')},
        {'step': -7},
        {'best': {'step': 10, 'accuracy': float('nan')}},
        {'best': {'step': 10, 'accuracy': 7.0}},
        {'evaluation': {'loss': 1.0}},
        {'pending': [{'loss': 'x'}]},
        {'evaluation_due': 1},
        {'best': {'step': 10}},
        {'best': []},
        {'seconds': True},
        {'step': 9},
        {'changes': [{'step': 1, 'fields': {'learning_rate': [1]}}]},
    ],
)
def test_metadata_with_an_odd_part(change, hostile, tmp_path):
    hostile(lambda metadata: metadata['progress'].update(change))
    with pytest.raises(InputFileError, match=r'metadata\.json (has|is of step 9|is not JSON)'):
        Classifier.load(tmp_path / 'run')


@pytest.mark.parametrize('value', [[], 'text', 7, {}])
def test_metadata_of_another_kind(value, hostile):
    path = hostile(lambda metadata: None)
    (path / 'metadata.json').write_text(json.dumps(value))
    with pytest.raises(InputFileError, match=r'metadata\.json'):
        read_metadata(path)


@pytest.mark.parametrize('other', ['params/fc/bias', 'opt_state/1/0/trace/fc/bias'])
def test_arrays_that_claim_terabytes_take_no_memory(other, tmp_path):
    """An array of which hardly a chunk is there, as zarr allows: refused by its shape, or not read if nobody asked for it."""
    folder = shutil.copytree(ROOT / 'tests' / 'faults' / 'format2' / 'checkpoints', tmp_path / 'run' / 'checkpoints')
    spec = {
        'driver': 'zarr',
        'kvstore': {'driver': 'ocdbt', 'base': f'file://{folder}/10/arrays', 'path': other.replace('/', '.') + '/'},
        'metadata': {'shape': [2**40], 'chunks': [2**20], 'dtype': '<f4', 'fill_value': None},
    }
    tensorstore.open(spec, create=True, delete_existing=True).result()
    (folder / '10' / 'SHA256SUMS').write_text(checksums_text(folder / '10'))
    checkpoint.verify(folder / '10')
    if other.startswith('params'):
        with pytest.raises(InputFileError, match=r'params/fc/bias is float32\[1099511627776\] there, expected float32\[10\]'):
            Classifier.load(tmp_path / 'run')
    else:
        assert Classifier.load(tmp_path / 'run').origin.step == 10


def test_a_flipped_bit_in_the_arrays_whose_sums_fit_is_read_or_refused(hostile, tmp_path):
    path = hostile(lambda metadata: None)
    before = Classifier.load(tmp_path / 'run')
    files = sorted(file for file in (path / 'arrays').rglob('*') if file.is_file())
    random, refused = np.random.default_rng(0), 0
    for file in files:
        data = file.read_bytes()
        for place in random.integers(0, max(len(data), 1), 6 if data else 0):
            file.write_bytes(data[:place] + bytes([data[place] ^ (1 << int(random.integers(8)))]) + data[place + 1 :])
            (path / 'SHA256SUMS').write_text(checksums_text(path))
            try:
                Classifier.load(tmp_path / 'run')
            except (InputFileError, ConfigError) as error:
                refused += 1
                assert '10' in str(error) and '\n' not in str(error)
        file.write_bytes(data)
    (path / 'SHA256SUMS').write_text(checksums_text(path))
    assert refused > 5
    np.testing.assert_array_equal(
        *(np.asarray(jax.tree.leaves(run.variables)[0]) for run in (before, Classifier.load(tmp_path / 'run')))
    )


def test_a_command_that_meets_unreadable_arrays_prints_one_line(hostile, tmp_path):
    path = hostile(lambda metadata: None)
    file = max((path / 'arrays' / 'd').iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (path / 'SHA256SUMS').write_text(checksums_text(path))
    Image.new('RGB', (32, 32)).save(tmp_path / 'a.png')
    for _ in range(3):  # TensorStore's threads do not always lose the race
        done = run('predict.py', f'--workdir={tmp_path / "run"}', str(tmp_path / 'a.png'), code=3)
        assert error_line(done) == f'error: checkpoint {path} is damaged: its arrays cannot be read; use another checkpoint'
        assert done.stderr.count('\n') == 1, done.stderr


def test_a_parameter_that_is_not_finite_is_named(tmp_path):
    metadata = read_metadata(ROOT / 'tests' / 'faults' / 'format2' / 'checkpoints' / '10')
    state = {'params': {'kernel': np.array([1.0, np.nan], np.float32)}, 'count': np.int32(3)}
    path = checkpoint.save(tmp_path, state, metadata)
    with pytest.raises(InputFileError, match='has numbers in params/kernel that are not finite'):
        checkpoint.restore(path, state)


@pytest.mark.parametrize(
    ('name', 'kwargs'),
    [
        ('resnet8', {'stage_sizes': [1] * 60}),
        ('resnet8', {'stage_sizes': [1] * 5000}),
        ('resnet8', {'num_filters': 2**62}),
        ('resnet8', {'stem_filters': 2**62}),
        ('resnet8', {'stage_sizes': [2**62]}),
        ('speedrun94', {'widths': [1] * 30}),
        ('speedrun94', {'widths': [1] * 20_000}),
        ('speedrun94', {'widths': [2**62]}),
        ('lenet5', {'padding': 2**62}),
        ('lenet5', {'padding': 10**6}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_network_of_absurd_size_is_refused(name, kwargs, hostile, tmp_path):
    hostile(lambda metadata: metadata['config'].update(model=name, model_kwargs=kwargs))
    with pytest.raises(InputFileError, match=str(tmp_path)) as caught:
        Classifier.load(tmp_path / 'run')
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize('name', ['arrays', 'arrays/_METADATA', 'arrays/manifest.ocdbt'])
@pytest.mark.parametrize('left', ['nothing', 'file', 'folder'])
def test_arrays_that_are_no_files_of_orbax(left, name, hostile, tmp_path):
    path = hostile(lambda metadata: None)
    odd = path / name
    shutil.rmtree(odd) if odd.is_dir() else odd.unlink()
    if left == 'file':
        odd.write_text('x')
    elif left == 'folder':
        odd.mkdir()
        (odd / 'x').write_text('x')
    (path / 'SHA256SUMS').write_text(checksums_text(path))
    with pytest.raises(InputFileError, match='its arrays cannot be read'):
        Classifier.load(tmp_path / 'run')


@pytest.mark.parametrize('sizes', [[10**7] * 3, [1000, 1000]])
def test_a_network_of_absurd_depth_is_not_built(sizes, hostile, tmp_path):
    hostile(lambda metadata: metadata['config'].update(model='resnet8', model_kwargs={'stage_sizes': sizes}))
    with pytest.raises(InputFileError, match=r'expected at most|too few for the 2000 blocks'):
        Classifier.load(tmp_path / 'run')


@pytest.mark.parametrize('name', ['.lock', 'run.log', 'metrics.jsonl', 'plots', 'predictions.npz', 'tensorboard'])
def test_nothing_is_written_through_a_link_in_a_run_folder(name, hostile, tmp_path):
    hostile(lambda metadata: None)
    outside = tmp_path / 'outside'
    if name in ('plots', 'tensorboard'):
        outside.mkdir()
    else:
        outside.write_text('untouched')
    (tmp_path / 'run' / name).symlink_to(outside)
    line = error_line(run('train.py', *TINY, f'--workdir={tmp_path / "run"}', code=3))
    assert f'{tmp_path}/run/{name} is a link; expected files and folders only' in line
    assert list(outside.iterdir()) == [] if outside.is_dir() else outside.read_text() == 'untouched'


@pytest.mark.parametrize(
    'content', ['{"accuracy": 1e999}', '[' * 100_000, '{"accuracy": ' + '9' * 400 + '}', '{"count": "x"}', '[]', '\x00']
)
def test_odd_files_of_a_run_make_no_traceback(content, tmp_path):
    folder = write_folder(tmp_path / 'run')
    for name in ('result', 'environment', 'memory', 'evaluation', 'model', 'corruptions', 'failed'):
        (folder / f'{name}.json').write_text(content)
    (folder / 'metrics.jsonl').unlink()
    os.mkfifo(folder / 'metrics.jsonl')
    command = run('compare.py', folder, f'--out={tmp_path / "compare.html"}', code=0 if '"x"' not in content else 3, timeout=60)
    assert command.returncode == 0 or 'is not what a run' in error_line(command)
