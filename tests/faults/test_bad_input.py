"""Forty and more mistakes in configs and flags: exit 2, one line that names the key and what was expected."""

import pytest
from commands_support import error_line
from faults_support import run

QUICK = '--config=configs/quickstart.py'
FIELDS = {  # --config.<key>=<value>, and a part of the line
    'batch_siz=64': "'batch_siz'; did you mean 'batch_size'?",
    'lerning_rate=1': "'lerning_rate'; did you mean 'learning_rate'?",
    'num_epoch=3': "'num_epoch'; did you mean 'num_epochs'?",
    'zzz=1': "'zzz'; expected one of seed, dataset,",
    'batch_size=many': '--config.batch_size=many: expected an integer',
    'batch_size=-5': "'batch_size' is -5; expected an integer of at least 1",
    'batch_size=0': "'batch_size' is 0; expected an integer of at least 1",
    'batch_size=1.5': '--config.batch_size=1.5: expected an integer',
    'batch_size=3000000000': "'batch_size' is 3000000000; expected an integer of at least 1",
    'batch_size=2000': 'expected --config.batch_size=1437',
    'seed=-1': "'seed' is -1; expected an integer of at least 0",
    'learning_rate=nan': "'learning_rate' is nan; expected a number above 0",
    'learning_rate=inf': "'learning_rate' is inf; expected a number above 0",
    'learning_rate=-0.1': "'learning_rate' is -0.1; expected a number above 0",
    'learning_rate=fast': '--config.learning_rate=fast: expected a number',
    'momentum=1.0': "'momentum' is 1.0; expected a number of at least 0 and below 1",
    'label_smoothing=1.0': "'label_smoothing' is 1.0; expected a number of at least 0 and below 1",
    'weight_decay=-1.0': "'weight_decay' is -1.0; expected a number of at least 0",
    'clip_norm=nan': "'clip_norm' is nan; expected a number of at least 0",
    'ema_decay=1.0': "'ema_decay' is 1.0; expected a number of at least 0 and below 1",
    'mixup_alpha=-1.0': "'mixup_alpha' is -1.0; expected a number of at least 0",
    'step_factor=0.0': "'step_factor' is 0.0; expected a number above 0 and at most 1",
    'flip=maybe': '--config.flip=maybe: expected True or False',
    'dtype=float16': "'dtype' is 'float16'; expected one of float32, bfloat16",
    'optimizer=adm': "'optimizer' is 'adm'; expected one of sgd, adam, adamw, muon (did you mean 'adam'?)",
    'schedule=cosin': "did you mean 'cosine'?",
    'milestones=(0.75,0.5)': "'milestones' is (0.75, 0.5); expected increasing fractions of the run",
    'model=resnet19': "'resnet19'; did you mean 'resnet18'?",
    'model_kwargs.stemm=cifar': "did you mean 'stem'?",
    'model_kwargs.num_classes=5': 'model_kwargs has num_classes',
    'dataset=cifar11': "did you mean 'cifar10'?",
    'dataset=': "'dataset' is ''; expected a name",
    'num_epochs=0': "'num_epochs' is 0; expected an integer of at least 1",
    'warmup_epochs=30.0': 'lower warmup_epochs or raise num_epochs',
    'validation_size=1437': 'cannot hold out 1437 of 1437 examples',
    'gradient_accumulation_steps=0': "'gradient_accumulation_steps' is 0; expected an integer of at least 1",
    'eval_batch_size=0': "'eval_batch_size' is 0; expected an integer of at least 1",
    'log_every=0': "'log_every' is 0; expected an integer of at least 1",
    'divergence_retries=-1': "'divergence_retries' is -1; expected an integer of at least 0 and at most 100",
}
FLAGS = {  # the command line, and a part of the line
    f'train.py {QUICK} --wrkdir=x': "flag 'wrkdir'. Did you mean: workdir",
    f'train.py {QUICK} extra': "'extra'",
    f'train.py {QUICK} --extend=maybe': '--extend=maybe: expected True or False',
    f'train.py {QUICK} --num_processes=2': '--coordinator_address',
    f'train.py {QUICK} --process_id=one': '--process_id=one',
    f'train.py {QUICK} --config.model=alexnet --config.cross_device_batch_norm=True': 'alexnet has no BatchNorm',
    'train.py --config=configs/default.py --config.data_dir=gs://bucket/data': 'gs://bucket/data is a remote address',
    'train.py': 'expected --config=NAME or FILE',
    'train.py --config=configs/resnet17.py': 'configs/resnet18.py',
    'train.py --config=README.md': "no config 'README.md'; expected a path ending in .py, or one of",
    'evaluate.py': '--workdir=FOLDER',
    'evaluate.py --wrkdir=x': "flag 'wrkdir'. Did you mean: workdir",
    'predict.py --top=0 --workdir=x a.png': '--top=0: 0 is not a positive integer',
    'predict.py --workdir=x': 'image file',
    'convert.py': 'expected --out=FILE and either --from=FILE or --workdir=FOLDER',
}
CASES = {f'train.py {QUICK} --config.{field}': text for field, text in FIELDS.items()} | FLAGS


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_a_mistake_is_one_line_and_soon_told(case, tmp_path):
    workdir = [] if '--workdir' in case or not case.startswith('train.py') else [f'--workdir={tmp_path / "run"}']
    done = run(*case.split(), *workdir, code=2)
    line = error_line(done)
    assert CASES[case] in line, line
    assert done.cpu_seconds < 10  # about 3 on an idle machine
    if not any(part in case for part in ('validation_size', 'batch_size=2000', 'data_dir')):  # which need the data
        assert not (tmp_path / 'run').exists()


def test_there_are_forty():
    assert len(CASES) >= 40
