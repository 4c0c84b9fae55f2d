"""The examples of docs/watching.md, run as they stand there but with fewer epochs and without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = dict(re.findall(r'```python\n# (\w+)\n(.*?)```', (ROOT / 'docs' / 'watching.md').read_text(), re.DOTALL))
FEW = """config = quickstart.get_config()
config.num_epochs, config.warmup_epochs, config.model_kwargs = 2, 0.5, {'num_filters': 4}
"""


def test_both_examples_are_short():
    assert list(EXAMPLES) == ['wandb', 'mlflow']
    for text in EXAMPLES.values():
        assert len([line for line in text.splitlines() if line.strip()]) <= 15
        compile(text, 'docs/watching.md', 'exec')


def run(name, folder, **environment):
    text = EXAMPLES[name].replace('config = quickstart.get_config()\n', FEW)
    assert FEW in text
    done = subprocess.run(
        [sys.executable, '-c', text],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_NUM_CPU_DEVICES': '1', **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / 'runs' / f'with_{name}' / 'report.html').is_file()


@pytest.mark.slow
def test_weights_and_biases_keeps_every_step_offline(tmp_path):
    run('wandb', tmp_path, WANDB_MODE='offline', WANDB_SILENT='true', HOME=str(tmp_path))
    (path,) = (tmp_path / 'wandb').glob('offline-run-*/*.wandb')
    written = path.read_bytes()
    assert written.count(b'train/loss') >= 44 and b'test/accuracy' in written


@pytest.mark.slow
def test_mlflow_keeps_metrics_params_and_the_report(tmp_path):
    store = (tmp_path / 'mlruns').as_uri()  # mlflow-skinny, which the tests install, has no other without a server
    variables = {'MLFLOW_TRACKING_URI': store, 'MLFLOW_ALLOW_FILE_STORE': 'true'}
    run('mlflow', tmp_path, HOME=str(tmp_path), **variables)
    code = (
        'import mlflow; (run,) = mlflow.MlflowClient().search_runs(["0"]); print(run.data.params["model"]); '
        'print(sorted(run.data.metrics)); client = mlflow.MlflowClient(); '
        'print([m.step for m in client.get_metric_history(run.info.run_id, "test/accuracy")]); '
        'print([a.path for a in client.list_artifacts(run.info.run_id)])'
    )
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ['resnet8', "['test/accuracy', 'test/loss']", '[22, 44]', "['report.html']"], done.stderr
