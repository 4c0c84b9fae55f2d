import contextlib
import io
import json
import logging
import os
import resource
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import tiny
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from resnet_jax.errors import ConfigError, InputFileError, ResourceError, RunFolderInUseError
from resnet_jax.runs.folder import RunFolder, check_not_in_use
from resnet_jax.runs.progress import Progress
from resnet_jax.runtime.environment import environment


@pytest.fixture
def config():
    return tiny.checked()


def entries(folder):
    return {p.name for p in folder.iterdir()}


def rows_of(*steps):
    return [{'step': step, 'epoch': step / 2, 'split': 'train', 'loss': 1.0 / step} for step in steps]


@contextlib.contextmanager
def limited_file_size(limit):
    """A limit on the size of files stands for the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def with_checkpoint(path, config):
    """A folder as a run leaves it after its first checkpoint."""
    with RunFolder(path, config) as folder:
        folder.start(Progress(step=0), {}, ('train',))
        (folder.checkpoints / '3').mkdir(parents=True)
    return path


def test_it_is_made_with_its_parents_and_holds_what_it_should(tmp_path, config):
    path = tmp_path / 'runs' / 'first'
    with RunFolder(str(path), config) as folder:
        assert folder.path == path and folder.checkpoints == path / 'checkpoints'
        folder.start(Progress(step=0), {'platform': 'cpu'}, ('train',))
        folder.write_metrics(rows_of(2))
    expected = {'.lock', 'config.json', 'environment.json', 'metrics.jsonl', 'run.log', 'tensorboard', 'timing.jsonl'}
    assert entries(path) == expected
    assert json.loads((path / 'config.json').read_text()) == config.to_dict()
    assert json.loads((path / 'environment.json').read_text()) == {'platform': 'cpu'}


def test_environment_names_versions_and_hardware():
    described = environment()
    assert described['platform'] == 'cpu' and described['devices'] == 4 and described['processes'] == 1
    assert described['packages'].keys() >= {'resnet_jax', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets'}
    assert described['device'] and described['cpu_cores'] >= 1
    json.dumps(described)


def test_a_second_opener_is_refused_and_told_who_holds_it(tmp_path, config):
    with (
        RunFolder(tmp_path, config),
        pytest.raises(RunFolderInUseError, match=rf'is in use by process {os.getpid()}; .* another run folder'),
        RunFolder(tmp_path, config),
    ):
        pass
    with RunFolder(tmp_path, config):  # and is free again
        pass


def test_a_pipe_instead_of_the_lock_is_refused_at_once(tmp_path, config):
    os.mkfifo(tmp_path / '.lock')
    with pytest.raises(InputFileError, match='is a pipe or a device'):
        check_not_in_use(tmp_path)
    with pytest.raises(InputFileError, match='is a pipe or a device'), RunFolder(tmp_path, config):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path, config):
    script = (
        'import fcntl, os, sys; file = open(sys.argv[1], "a+"); fcntl.flock(file, fcntl.LOCK_EX)\n'
        'file.write("4711"); file.flush(); print("held", flush=True); sys.stdin.read()'
    )
    command = [sys.executable, '-c', script, str(tmp_path / '.lock')]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'held\n'
        with pytest.raises(RunFolderInUseError, match='process 4711'):
            RunFolder(tmp_path, config).__enter__()
        process.kill()
    with RunFolder(tmp_path, config):
        assert (tmp_path / '.lock').read_text() == str(os.getpid())


def test_another_config_is_refused_with_the_difference(tmp_path, config):
    path = with_checkpoint(tmp_path / 'run', config)
    before = (path / 'config.json').read_bytes()
    other = config.replace(learning_rate=0.5, model='resnet20')
    with pytest.raises(ConfigError) as info:
        RunFolder(path, other).__enter__()
    assert "model: 'resnet8' -> 'resnet20'" in str(info.value) and 'learning_rate: 0.05 -> 0.5' in str(info.value)
    assert (path / 'config.json').read_bytes() == before


def test_a_refusal_leaves_the_folder_unlocked(tmp_path, config):
    """Also while its exception, and with it the failed RunFolder, is kept."""
    path = with_checkpoint(tmp_path / 'run', config)
    with pytest.raises(ConfigError) as kept, RunFolder(path, config.replace(seed=5)):
        pass
    with RunFolder(path, config):
        pass
    assert kept.value


def test_what_does_not_define_the_run_may_change(tmp_path, config):
    path = with_checkpoint(tmp_path / 'run', config)
    logging.getLogger('resnet_jax').setLevel(logging.INFO)
    with RunFolder(path, config.replace(log_every=7, data_dir='/elsewhere')):
        pass
    assert 'log_every: 2 -> 7' in (path / 'run.log').read_text()


def test_before_the_first_checkpoint_the_config_may_be_corrected(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=0), {}, ('train',))
    with RunFolder(tmp_path, config.replace(seed=5)) as folder:
        folder.start(Progress(step=0), {}, ('train',))
    assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 5


def test_damaged_json(tmp_path, config):
    (tmp_path / 'config.json').write_text('{"seed": ')
    with pytest.raises(InputFileError, match=r'config.json is not valid JSON .*; restore it or choose another run folder'):
        RunFolder(tmp_path, config).__enter__()


def test_unwritable(tmp_path, config):
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'run', '/proc/run'):
        with pytest.raises(ResourceError, match=r'run folder .* cannot be written: .*; .*choose another run folder'):
            RunFolder(path, config).__enter__()


def test_a_full_disk_while_metrics_are_written(tmp_path, config):
    """The rows wait, one warning says so, and nothing is half written."""
    logging.getLogger('resnet_jax').setLevel(logging.INFO)
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=0), {}, ('train',))
        folder.write_metrics(rows_of(1))
        (tmp_path / 'metrics.jsonl').rename(tmp_path / 'kept')
        (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
        folder.write_metrics(rows_of(2))
        folder.write_metrics(rows_of(4))
        with pytest.raises(ResourceError, match='No space left on device'):
            folder.flush()
        (tmp_path / 'kept').replace(tmp_path / 'metrics.jsonl')
        folder.flush()
        assert folder.read_metrics() == rows_of(1, 2, 4)
    log = (tmp_path / 'run.log').read_text()
    assert log.count('No space left on device') == 1 and 'can be written again' in log


def test_a_folder_that_is_removed_is_made_again_and_locked(tmp_path, config):
    path = tmp_path / 'run'
    with RunFolder(path, config) as folder:
        folder.start(Progress(step=0), {}, ('train',))
        folder.write_metrics(rows_of(1))
        shutil.rmtree(path)
        folder.write_metrics(rows_of(2))
        assert folder.read_metrics() == rows_of(2) and folder.read_json('config.json') == config.to_dict()
        assert 'was removed while the run goes on' in (path / 'run.log').read_text()
        with pytest.raises(RunFolderInUseError):
            RunFolder(path, config).__enter__()


def test_what_an_interrupted_write_left_is_removed_and_nothing_else(tmp_path, config):
    for name in ('.config.json.1-0123abcd.partial', '.report.html.2-89abcdef.partial', '.holiday.mov.partial'):
        (tmp_path / name).write_text('x')
    with RunFolder(tmp_path, config):
        pass
    assert entries(tmp_path) == {'.lock', 'run.log', '.holiday.mov.partial'}


def test_more_epochs_only_when_asked_for(tmp_path, config):
    path = with_checkpoint(tmp_path / 'run', config)
    (path / 'result.json').write_text('{}')
    longer = config.replace(num_epochs=config.num_epochs + 1)
    with pytest.raises(ConfigError, match=r'num_epochs: 4 -> 5\); continue with extend, or choose another run folder'):
        RunFolder(path, longer).__enter__()
    with pytest.raises(ConfigError, match='learning_rate'):
        RunFolder(path, longer.replace(learning_rate=1.0), extend=True).__enter__()
    with pytest.raises(ConfigError, match=r'num_epochs: 4 -> 3\); choose another'):
        RunFolder(path, config.replace(num_epochs=3), extend=True).__enter__()
    assert (path / 'result.json').exists()
    with RunFolder(path, longer, extend=True) as folder:
        assert folder.read_result() is None and (path / 'result.json').exists()  # the data may still be refused
        folder.start(Progress(step=0), {}, ('train',))
        assert not (path / 'result.json').exists() and (path / 'result-4-epochs.json').exists()


def test_another_learning_rate_only_when_asked_for(tmp_path, config, caplog):
    path = with_checkpoint(tmp_path / 'run', config)
    other = config.replace(learning_rate=0.01)
    with pytest.raises(ConfigError, match=r'learning_rate: 0.05 -> 0.01\); continue with allow_changes, or choose another'):
        RunFolder(path, other).__enter__()
    with pytest.raises(ConfigError, match=r'seed: 0 -> 1; learning_rate: 0.05 -> 0.01\); choose another run folder'):
        RunFolder(path, other.replace(seed=1)).__enter__()
    with pytest.raises(ConfigError, match=r'seed: 0 -> 1\); choose another run folder'):
        RunFolder(path, other.replace(seed=1), allow_changes=True).__enter__()
    with caplog.at_level('INFO'), RunFolder(path, other, allow_changes=True):
        assert 'learning_rate: 0.05 -> 0.01' in (path / 'run.log').read_text() and len(caplog.records) == 1


def test_a_full_disk_while_json_is_written(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        folder.write_json('result.json', {'accuracy': 0.5})
        with limited_file_size(0), pytest.raises(ResourceError, match='File too large'):
            folder.write_json('result.json', {'accuracy': 0.6})
        assert not list(tmp_path.glob('*.partial'))
        assert folder.read_json('result.json') == {'accuracy': 0.5}


def test_read_json_of_nothing(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        assert folder.read_json('result.json') is None


def test_metrics_are_written_as_they_come(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=0), {}, ('train',))
        folder.write_metrics(rows_of(2), images_per_second=10.0)
        folder.write_metrics(rows_of(4, 6))
        lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows_of(2, 4, 6)  # no times


def test_a_restart_drops_rows_beyond_its_checkpoint_and_a_half_written_one(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=0), {}, ('train',))
        folder.write_metrics(rows_of(2, 4, 6))
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 3, "lo')
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=4), {}, ('train',))
        folder.write_metrics(rows_of(5))
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [2, 4, 5]


def test_a_restart_drops_the_evaluation_of_the_result_which_will_be_written_again(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=0), {}, ('train', 'validation'))
        folder.write_metrics(
            [*rows_of(2), *({**row, 'split': split} for row in rows_of(2) for split in ('validation', 'test'))]
        )
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=2), {}, ('train', 'validation'))
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['split'] for line in lines] == ['train', 'validation']


def test_a_start_from_nothing_drops_all_rows(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=0), {}, ('train',))
        folder.write_metrics(rows_of(2, 4))
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=0), {}, ('train',))
    assert (tmp_path / 'metrics.jsonl').read_text() == ''


def read_events(folder):
    """Reads TensorBoard's files below a folder: per record 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    events = []
    for path in sorted(folder.rglob('events*')):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack('<Q', data[:8])
            events.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return events


def test_names_that_are_not_utf8_are_shown_in_tensorboard(tmp_path, config):
    with RunFolder(tmp_path, config.replace(dataset='folder:\udcff')) as folder:
        folder.start(Progress(step=4), {}, ('train', 'test'))
        folder.write_images(6, 'test', {'mistakes/1 \udcff, taken for \x1b[2J': np.full((2, 3, 1), 7, np.uint8)})
    tags = [value.tag for event in read_events(tmp_path / 'tensorboard' / 'test') for value in event.summary.value]
    assert tags == [r'mistakes/1 \udcff, taken for \x1b[2J']


def test_tensorboard_events(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=4), {}, ('train', 'gradients', 'test'))
        folder.write_metrics([{'step': 5, 'epoch': 2.5, 'split': 'train', 'loss': 0.5}])
        folder.write_metrics([{'step': 5, 'epoch': 2.5, 'split': 'gradients', 'norms': {'fc': 1.0}}])
        folder.write_metrics([{'step': 6, 'epoch': 3.0, 'split': 'test', 'loss': 0.25, 'count': 19}], images_per_second=50.0)
        folder.write_images(6, 'test', {'mistakes/1 cat, taken for dog (9 %)': np.full((2, 3, 1), 7, np.uint8)})
    assert sorted(path.name for path in (tmp_path / 'tensorboard').iterdir() if path.is_dir()) == ['test', 'train']
    scalars = {}
    for split in ('train', 'test'):  # the same tag in both, so that TensorBoard draws them in one chart
        events = read_events(tmp_path / 'tensorboard' / split)
        values = [(event.step, value) for event in events if event.HasField('summary') for value in event.summary.value]
        scalars[split] = {(value.tag, step, value.simple_value) for step, value in values if not value.HasField('image')}
        restarts = [event.step for event in events if event.session_log.status == SessionLog.START]
        assert restarts == [5]  # TensorBoard drops what an interrupted run wrote from here on
    assert scalars == {'train': {('loss', 5, 0.5)}, 'test': {('loss', 6, 0.25), ('images_per_second', 6, 50.0)}}
    (image,) = [value for _, value in values if value.HasField('image')]
    assert image.tag == 'mistakes/1 cat, taken for dog (9 %)' and (image.image.height, image.image.width) == (2, 3)
    with Image.open(io.BytesIO(image.image.encoded_image_string)) as picture:
        assert np.unique(np.asarray(picture.convert('L'))).tolist() == [7]


def test_the_config_is_tensorboards_hyperparameters(tmp_path, config):
    with RunFolder(tmp_path, config) as folder:
        folder.start(Progress(step=0), {}, ('train', 'gradients', 'validation'))
        folder.write_metrics([{'step': 1, 'epoch': 0.5, 'split': 'train', 'loss': 0.5}])
    (path,) = (tmp_path / 'tensorboard').glob('events*')
    values = [value for event in read_events(path.parent) for value in event.summary.value if 'hparams' in value.tag]
    contents = [HParamsPluginData.FromString(value.metadata.plugin_data.content) for value in values]
    (experiment,) = [content.experiment for content in contents if content.HasField('experiment')]
    (session,) = [content.session_start_info for content in contents if content.HasField('session_start_info')]
    fields = config.to_dict()
    assert {info.name for info in experiment.hparam_infos} == fields.keys() == session.hparams.keys()
    assert session.hparams['learning_rate'].number_value == fields['learning_rate']
    assert session.hparams['model'].string_value == fields['model'] and session.hparams['flip'].bool_value == fields['flip']
    metrics = [(info.name.group, info.name.tag) for info in experiment.metric_infos]
    assert metrics == [('validation', 'accuracy'), ('validation', 'loss')]


def test_messages_go_to_run_log_while_it_is_open(tmp_path, config):
    logger = logging.getLogger('resnet_jax.test')
    logging.getLogger('resnet_jax').setLevel(logging.INFO)
    with RunFolder(tmp_path, config):
        logger.info('Inside %d.', 1)
    logger.warning('Outside.')
    with RunFolder(tmp_path, config):
        logger.info('Again.')
    lines = (tmp_path / 'run.log').read_text().splitlines()
    assert [line.split(' ', 2)[2] for line in lines] == ['Inside 1.', 'Again.']
