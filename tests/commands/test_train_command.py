import gzip
import json
import os
import pty
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
from commands_support import ROOT, TINY, command, error_line, run
from sampling import sample
from tensorboardX.proto.event_pb2 import Event

from resnet_jax.config import fields
from resnet_jax.runs import checkpoint


def rows(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def arrays(workdir):
    """The newest checkpoint's step and arrays by name, as bytes."""
    step = checkpoint.steps(workdir / 'checkpoints')[-1]
    with checkpoint._checkpointer() as checkpointer:
        tree = checkpointer.restore((workdir / 'checkpoints' / str(step) / 'arrays').absolute())
    return step, {name: np.asarray(leaf) for name, leaf in checkpoint.leaves_by_name(tree).items()}


def assert_same_state(left, right):
    (left_step, left_arrays), (right_step, right_arrays) = arrays(left), arrays(right)
    assert left_step == right_step
    assert left_arrays.keys() == right_arrays.keys()
    for name, array in left_arrays.items():
        np.testing.assert_array_equal(array, right_arrays[name], err_msg=name)


def test_a_run_leaves_what_it_should(tiny_run):
    workdir, done = tiny_run
    assert 'resnet8, ' in done.stdout
    assert re.search(r'^Iteration 5 of 88, loss [\d.]+, accuracy [\d.]+ %, .* images/s, 0:\d\d:\d\d left$', done.stdout, re.M)
    assert re.search(r'^Test accuracy [\d.]+ % \(\d+ of 360\), loss [\d.]+, epoch 4 \(the last\)$', done.stdout, re.M)
    means = r'loss [\d.]+, accuracy [\d.]+ %'
    assert re.findall(rf'^Epoch (\d): train {means}; test {means}$', done.stdout, re.M) == ['1', '2', '3', '4']
    first, *others = done.stdout.splitlines()[-3:]
    assert first == f'Next: open {workdir}/report.html'
    assert re.fullmatch(rf' +tensorboard --logdir={workdir}/tensorboard( .*)?', others[0])
    assert others[1].strip() == f'resnet-jax predict --workdir={workdir} IMAGE...'
    names = {p.name for p in workdir.iterdir()}
    assert names >= {'config.json', 'environment.json', 'metrics.jsonl', 'result.json', 'run.log', 'plots', 'tensorboard'}
    assert 'Iteration 5 of 88' in (workdir / 'run.log').read_text()
    assert json.loads((workdir / 'environment.json').read_text())['packages'].keys() >= {'jax', 'flax', 'optax'}
    assert (workdir / 'plots' / 'training.png').read_bytes().startswith(b'\x89PNG')

    train = [row for row in rows(workdir) if row['split'] == 'train']
    test = [row for row in rows(workdir) if row['split'] == 'test']
    assert [row['step'] for row in train] == [*range(5, 89, 5), 88]
    assert [row['epoch'] for row in test] == [1, 2, 3, 4]
    assert {row['count'] for row in test} == {360}
    result = json.loads((workdir / 'result.json').read_text())
    assert result['accuracy'] == test[-1]['accuracy'] and result['selected'] == 'last' and result['step'] == 88
    assert train[-1]['loss'] < train[0]['loss'] and result['accuracy'] > 0.4  # 0.1 is chance
    # The latest checkpoint and the one before it (every 5 epochs, and the last).
    assert checkpoint.steps(workdir / 'checkpoints') == [88]
    subprocess.run(['sha256sum', '--check', '--strict', 'SHA256SUMS'], cwd=workdir / 'checkpoints' / '88', check=True)


def test_every_file_of_a_run_is_on_its_page(tiny_run):
    workdir, page = tiny_run[0], (ROOT / 'docs' / 'run_folder.md').read_text()
    files = [*workdir.iterdir(), *(workdir / 'plots').iterdir()]
    names = {path: (f'`{path.name}', f'`{path.relative_to(workdir)}`') for path in files}
    assert len(files) > 10 and [path for path in files if not any(name in page for name in names[path])] == []


def test_tensorboard_events_hold_the_metrics(tiny_run):
    from tensorboardX.record_writer import masked_crc32c

    workdir, _ = tiny_run
    scalars = {}
    for split in ('train', 'test'):
        (path,) = (workdir / 'tensorboard' / split).iterdir()
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], 'little')
            record = data[12 : 12 + length]
            assert masked_crc32c(record) == int.from_bytes(data[12 + length : 16 + length], 'little')
            event = Event.FromString(record)
            scalars.update({(split, value.tag, event.step): value.simple_value for value in event.summary.value})
            data = data[16 + length :]
    last = rows(workdir)[-1]
    assert scalars['test', 'accuracy', last['step']] == pytest.approx(last['accuracy'], rel=1e-6)
    assert ('train', 'accuracy', 5) in scalars and ('train', 'images_per_second', 5) in scalars
    evaluation = json.loads((workdir / 'evaluation.json').read_text())
    mistakes = [tag for split, tag, step in scalars if split == 'test' and step == last['step'] and 'mistakes/' in tag]
    assert len(mistakes) == min(12, len(evaluation['wrong'])) > 0
    assert mistakes[0].startswith(f'mistakes/01 {evaluation["wrong"][0]["label"]}, taken for ')


@pytest.mark.slow
def test_a_profile_names_each_iteration_and_changes_nothing(tiny_run, tmp_path):
    undisturbed, _ = tiny_run
    done = run('train.py', *TINY, f'--workdir={tmp_path / "run"}', '--profile')
    assert f'Trace in {tmp_path}/run/profile: ' in done.stdout
    (path,) = (tmp_path / 'run' / 'profile').rglob('perfetto_trace.json.gz')
    events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
    steps = [int(event['args']['step_num']) for event in events if event.get('name') == 'train']
    assert steps == [*range(2, 12)]
    assert list(path.parent.glob('*.xplane.pb'))
    assert_same_state(undisturbed, tmp_path / 'run')
    assert '--seeds' in error_line(run('train.py', *TINY, '--seeds=0', code=2))
    assert 'without --seeds' in error_line(run('train.py', *TINY, '--profile', '--seeds=2', code=2))


def test_the_same_command_again_does_nothing(tiny_run):
    workdir, first = tiny_run
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file() and p.name not in ('run.log', '.lock')}
    again = run('train.py', *TINY, f'--workdir={workdir}')
    assert 'is finished; nothing to do' in again.stdout
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[-4:]  # the result, and what to do next
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_another_config_in_the_same_folder_is_refused_with_a_diff(tiny_run):
    workdir, _ = tiny_run
    done = run('train.py', *TINY, '--config.learning_rate=0.2', '--config.batch_size=32', f'--workdir={workdir}', code=2)
    assert 'learning_rate: 0.1 -> 0.2' in error_line(done) and 'batch_size: 64 -> 32' in error_line(done)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_as_if_it_had_not_been(tiny_run, tmp_path, number):
    undisturbed, _ = tiny_run
    workdir = tmp_path / 'run'
    process = subprocess.Popen(
        **command('train.py', *TINY, f'--workdir={workdir}'), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith('Iteration 50 '):  # in the third epoch
            process.send_signal(number)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert not (workdir / 'result.json').exists()
    (step,) = checkpoint.steps(workdir / 'checkpoints')
    assert 50 <= step < 88

    again = run('train.py', *TINY, f'--workdir={workdir}')
    assert f'after iteration {step}' in again.stdout
    assert_same_state(undisturbed, workdir)
    assert (workdir / 'metrics.jsonl').read_bytes() == (undisturbed / 'metrics.jsonl').read_bytes()


@pytest.mark.slow  # test_kill.py does it in make test
def test_a_killed_run_continues_from_its_last_checkpoint(tiny_run, tmp_path):
    undisturbed, _ = tiny_run
    workdir = tmp_path / 'run'
    often = [*TINY, '--config.checkpoint_every_epochs=1', f'--workdir={workdir}']
    process = subprocess.Popen(**command('train.py', *often), stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith('Iteration 50 '):
            process.kill()
            break
    process.communicate()
    assert 'after iteration 44' in run('train.py', *often).stdout
    assert_same_state(undisturbed, workdir)
    assert (workdir / 'metrics.jsonl').read_bytes() == (undisturbed / 'metrics.jsonl').read_bytes()


def test_a_folder_in_use_is_refused(tmp_path):
    arguments = ('train.py', *TINY, '--config.num_epochs=10000', f'--workdir={tmp_path / "run"}')  # longer than a start takes
    process = subprocess.Popen(**command(*arguments), stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    assert str(process.pid) in error_line(run(*arguments, code=6))
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_the_best_epoch_on_held_out_examples_is_the_result(tmp_path):
    workdir = tmp_path / 'run'
    done = run('train.py', *TINY, '--config.validation_size=200', '--config.ema_decay=0.9', f'--workdir={workdir}')
    assert '200 held out' in done.stdout and 'with averaged parameters' in done.stdout
    validation = [row for row in rows(workdir) if row['split'] == 'validation']
    (test,) = [row for row in rows(workdir) if row['split'] == 'test']
    best = max(validation, key=lambda row: row['accuracy'])
    result = json.loads((workdir / 'result.json').read_text())
    assert result['selected'] == 'validation' and result['step'] == best['step'] and result['count'] == 360
    assert result['accuracy'] == test['accuracy'] and result['ema_accuracy'] == test['ema_accuracy']
    evaluated = json.loads(run('evaluate.py', f'--workdir={workdir}', '--json').stdout)
    assert evaluated['step'] == best['step'] and evaluated['accuracy'] == test['accuracy']
    averaged = json.loads(run('evaluate.py', f'--workdir={workdir}', '--json', '--ema').stdout)
    assert averaged['accuracy'] == test['ema_accuracy']


def test_a_terminal_sees_a_progress_bar(tmp_path):
    parent, child = pty.openpty()
    options = command('train.py', *TINY, f'--workdir={tmp_path / "run"}', TERM='xterm-256color', COLUMNS='160')
    process = subprocess.Popen(**options, stdout=child, stderr=child)
    os.close(child)
    output = b''
    while True:
        try:
            output += os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', output.decode())
    assert re.search(r'resnet8 +.*\d+/88 +loss [\d.]+ +accuracy [\d.]+ % +[\d,]+ images/s +0:\d\d:\d\d left', text), text[
        -3000:
    ]
    assert '88/88' in text


BAD = {
    'unknown field': (['--config.batch_siz=64'], 2, "'batch_siz'; did you mean 'batch_size'?"),
    'wrong type': (['--config.batch_size=many'], 2, 'expected an integer'),
    'no flag': (['--config.flip=maybe'], 2, 'expected True or False'),
    'negative': (['--config.batch_size=-5'], 2, "'batch_size' is -5; expected an integer of at least 1"),
    'nan': (['--config.learning_rate=nan'], 2, "'learning_rate' is nan; expected a number above 0"),
    'model': (['--config.model=resnet19'], 2, "'resnet19'; did you mean 'resnet18'?"),
    'model argument': (['--config.model_kwargs.stemm=cifar'], 2, "did you mean 'stem'?"),
    'dataset': (['--config.dataset=cifar11'], 2, "did you mean 'cifar10'?"),
    'optimizer': (['--config.optimizer=adm'], 2, 'sgd, adam, adamw'),
    'schedule': (['--config.schedule=cosin'], 2, "did you mean 'cosine'?"),
    'batch too large': (['--config.batch_size=2000'], 2, '--config.batch_size=1437'),
    'flag': (['--wrkdir=x'], 2, 'workdir'),
    'argument': (['extra'], 2, "'extra'"),
    'workdir': (['--workdir=/proc/run'], 5, '/proc/run'),
}


# One of each kind: test_config.py, test_models.py and others have the messages.
FAST = ('unknown field', 'negative', 'model', 'batch too large', 'flag', 'argument', 'workdir')


@pytest.mark.parametrize('name', [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in BAD])
def test_bad_input_is_one_line(name, tmp_path):
    flags, code, text = BAD[name]
    workdir = tmp_path / 'run'
    done = run('train.py', '--config=configs/quickstart.py', f'--workdir={workdir}', *flags, code=code)
    assert text in error_line(done)
    assert done.cpu_seconds < 10  # about 3 on an idle machine
    assert not (workdir / 'config.json').exists()


def test_a_wrong_name_is_told_before_the_data_are_read(tmp_path):
    flags = ['--config=configs/resnet18.py', '--config.model=resnet19', f'--workdir={tmp_path / "run"}']
    line = error_line(run('train.py', *flags, code=2, TFDS_DATA_DIR=str(tmp_path / 'empty')))
    assert "did you mean 'resnet18'?" in line


def test_help_lists_the_flags_and_is_no_error():
    done = run('train.py', '--help')
    assert '--config' in done.stdout and '--workdir' in done.stdout and '--config=resnet18' in done.stdout
    for field in fields():
        assert f'  {field.name}: ' in done.stdout


def test_processes_without_a_coordinator_are_refused():
    flags = ['--config=configs/quickstart.py', '--num_processes=2', '--process_id=0']
    assert '--coordinator_address' in error_line(run('train.py', *flags, code=2))


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_stop_the_run(tmp_path):
    process = subprocess.Popen(
        **command('train.py', *TINY, f'--workdir={tmp_path / "run"}'), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert 'Traceback' not in process.stderr.read()
    assert 'Test accuracy' in (tmp_path / 'run' / 'run.log').read_text()


@pytest.mark.slow
def test_a_plot_that_cannot_be_drawn_does_not_fail_the_run(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    (workdir / 'result.json').unlink()
    shutil.rmtree(workdir / 'plots')
    (workdir / 'plots').write_text('a file where the folder should be')
    assert 'plot could not be drawn' in run('train.py', *TINY, f'--workdir={workdir}').stdout
    done = run('evaluate.py', f'--workdir={workdir}')
    assert 'accuracy  ' in done.stdout and 'could not be written' in done.stderr


@pytest.mark.parametrize('rc', sample(['backend: nonsense', 'text.usetex: True', 'axes.prop_cycle: 3'], 3))
def test_a_terminal_inside_jupyter_and_a_style_that_cannot_be_drawn_do_not_fail_the_run(rc, tiny_run, tmp_path):
    (tmp_path / 'matplotlibrc').write_text(f'{rc}\n')
    environment = {'MPLBACKEND': 'module://matplotlib_inline.nowhere', 'MATPLOTLIBRC': str(tmp_path), 'PATH': str(tmp_path)}
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    (workdir / 'result.json').unlink()
    assert 'Test accuracy' in run('train.py', *TINY, f'--workdir={workdir}', **environment).stdout
    assert (workdir / 'result.json').is_file()
    assert 'accuracy  ' in run('evaluate.py', f'--workdir={workdir}', **environment).stdout


def test_a_damaged_line_of_the_metrics_does_not_stop_the_next_start(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    whole = (workdir / 'metrics.jsonl').read_bytes()
    (workdir / 'metrics.jsonl').write_bytes(whole + b'\0\0\0\n')
    (workdir / 'result.json').unlink()
    run('train.py', *TINY, f'--workdir={workdir}')
    assert (workdir / 'metrics.jsonl').read_bytes() == whole


@pytest.mark.parametrize(
    ('flags', 'text'),
    [([], '--config=resnet18'), (['--config=configs/resnet17.py'], 'configs/resnet18.py'), (['--config=.'], "'.'")],
)
def test_a_missing_config_file_is_one_line(flags, text):
    assert text in error_line(run('train.py', *flags, code=2))


def test_a_config_file_that_fails_is_one_line(tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text('from resnet_jax import default_config\ndef get_config():\n    return defalt_config()\n')
    assert "name 'defalt_config' is not defined" in error_line(run('train.py', f'--config={path}', code=2))


def test_a_batch_that_does_not_divide_names_sizes_that_do(tmp_path):
    done = run(
        'train.py', '--config=configs/quickstart.py', '--config.batch_size=66', f'--workdir={tmp_path}', code=2, devices=4
    )
    assert '--config.batch_size=64 or 68' in error_line(done)


def test_no_data_and_no_network_is_one_line(tmp_path):
    done = run(
        'train.py',
        '--config=configs/resnet18.py',
        f'--workdir={tmp_path / "run"}',
        code=3,
        TFDS_DATA_DIR=str(tmp_path / 'empty'),
        # A proxy that refuses at once stands for a machine without a network, also where there is one.
        https_proxy='http://127.0.0.1:9',
        HTTPS_PROXY='http://127.0.0.1:9',
    )
    line = error_line(done)
    for way in ('--config.data_archive', '--config.data_dir', 'TFDS_DATA_DIR', 'network', 'quickstart'):
        assert way in line, way
    assert done.cpu_seconds < 10


@pytest.mark.slow
def test_the_run_folder_is_named_after_the_config(tmp_path):
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    options = command('train.py', *TINY, '--config.num_epochs=1', '--config.model_kwargs.stage_sizes=1,')
    done = subprocess.run(**{**options, 'cwd': tmp_path}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'runs' / 'quickstart' / 'result.json').is_file()


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(tmp_path):
    if not os.environ.get('TFDS_DATA_DIR'):
        pytest.skip('needs CIFAR-10: set TFDS_DATA_DIR to a folder where tfds has prepared it')
    flags = ['--config=configs/resnet18.py', '--config.batch_size=50000', f'--workdir={tmp_path / "run"}']
    line = error_line(run('train.py', *flags, code=5, timeout=600))
    fitting = int(re.search(r'--config.batch_size=(\d+) should fit', line)[1])
    assert 128 < fitting < 50000
    assert '--config.gradient_accumulation_steps' in line


def test_quickstart_reaches_98_percent_in_90_seconds_of_two_cores(tmp_path):
    optimised = {'JAX_DISABLE_MOST_OPTIMIZATIONS': None}
    done = run('train.py', '--config=configs/quickstart.py', f'--workdir={tmp_path / "run"}', timeout=300, **optimised)
    assert json.loads((tmp_path / 'run' / 'result.json').read_text())['accuracy'] >= 0.98
    assert done.cpu_seconds < 2 * 90
