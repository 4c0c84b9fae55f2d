"""The serve command as a user calls it; tests/serve has what it answers."""

import base64
import json
import signal
import socket
import subprocess

import pytest
from commands_support import command, error_line, run
from PIL import Image
from server_process import DIGITS, ServeProcess


@pytest.fixture
def digit(tmp_path):
    from sklearn.datasets import load_digits

    Image.fromarray((load_digits().images[0] * 255 / 16).astype('uint8')).save(tmp_path / 'zero.png')
    return json.dumps({'images': [base64.b64encode((tmp_path / 'zero.png').read_bytes()).decode()], 'top': 1})


def test_a_run_says_how_often_it_is_right_and_a_token_keeps_others_out(tiny_run, digit, tmp_path):
    (tmp_path / 'token').write_text('correct-horse\n')
    flags = ('--max_batch=1', '--host=0.0.0.0', f'--token_file={tmp_path / "token"}')
    with ServeProcess(tiny_run[0], *flags) as process:
        assert process.lines[0] == 'tiny: 10 classes, images of 8 x 8 x 1' and process.address.startswith('http://0.0.0.0:')
        for headers, status in (
            ({}, 401),
            ({'Authorization': 'Bearer wrong'}, 401),
            ({'Authorization': 'Basic correct-horse'}, 401),
        ):
            assert process.json('/v1/predict', digit, **headers)[0] == status
        assert process.ask('/v1/models')[0] == 401 and process.ask('/v1/models')[1]['www-authenticate'] == 'Bearer'
        assert process.ask('/healthz')[0] == 200 and process.ask('/')[0] == 200  # nothing in them is of the network
        status, answer = process.json('/v1/predict', digit, Authorization='bearer correct-horse', Host='any.name:1')
        (prediction,) = answer['predictions']
        measured = prediction['measured']
        assert status == 200 and answer['model'] == 'tiny' and len(prediction['top']) == 1
        counts = [500 <= measured['count'] * 10 <= 5400, 0 <= measured['accuracy'] <= 1, measured['low'] <= measured['high']]
        assert all(counts), measured
        code, rest, errors = process.stop(signal.SIGHUP)
        assert (code, rest) == (0, 'Stopped; everything that was accepted is answered.\n')
        assert 'warning' not in errors and errors.endswith('Interrupt again to stop at once.\n')


def test_a_server_that_anyone_may_reach_says_so():
    (warning, error) = run('serve.py', 'runs/none', '--host=0.0.0.0', '--port=0', code=3).stderr.splitlines()
    assert warning.startswith('warning: anyone who reaches this machine at 0.0.0.0:') and '--token_file=FILE' in warning
    assert error.startswith('error: no run in runs/none')


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        line = error_line(run('serve.py', DIGITS, f'--port={port}', code=5))
    assert f'port {port} of 127.0.0.1 cannot be used: Address already in use; choose another one, or 0 for any' in line


@pytest.mark.parametrize(
    ('flags', 'code', 'text'),
    [
        ([], 2, 'no model given; expected a run folder'),
        (['runs/none'], 3, 'no run in runs/none'),
        (['timm/resnet18.a1_in1'], 2, 'did you mean'),
        ([DIGITS, DIGITS], 2, 'is given 2 times'),
        ([DIGITS, '--host=no.such.host.invalid'], 2, "host 'no.such.host.invalid' is not known"),
        ([DIGITS, '--port=70000'], 2, 'port'),
        ([DIGITS, '--timeout=nan'], 2, 'timeout'),
        ([DIGITS, '--max_mib=1e308'], 2, 'max_mib'),
        ([DIGITS, '--host=255.255.255.255', '--port=0'], 2, "host '255.255.255.255' is an address of many machines"),
        ([DIGITS, '--host=224.0.0.1', '--port=0'], 2, "host '224.0.0.1' is an address of many machines"),
        ([DIGITS, '--max_batch=0'], 2, 'max_batch'),
        ([DIGITS, '--token_file=/no/token'], 3, '/no/token cannot be read'),
        ([DIGITS, '--token_file=/dev/zero'], 3, '/dev/zero cannot be read (it is not a regular file'),
        ([DIGITS, f'--token_file={__file__}'], 3, 'holds no token; expected one line of 8'),
    ],
)
def test_bad_flags_are_one_line(flags, code, text):
    assert text in error_line(run('serve.py', *flags, code=code))


@pytest.mark.parametrize('package', ['starlette', 'uvicorn', 'python_multipart'])
def test_a_package_that_is_missing_is_one_line_with_what_to_do(package, tmp_path):
    options = command('serve.py', DIGITS)
    program = f"import sys; sys.modules['{package}'] = None; from resnet_jax.cli.main import main; main('serve')"
    options['args'][1:2] = ['-c', program]
    done = subprocess.run(**options, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
    assert f"error: serve needs {package}; expected it: pip install 'resnet_jax[serve]'" in done.stderr
