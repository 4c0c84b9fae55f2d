"""A real server and real connections: what it refuses, how it lasts, and how it ends."""

import asyncio
import base64
import contextlib
import http.client
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from commands_support import command
from server_process import DIGITS, ServeProcess

from resnet_jax.benchmark import load


def body(path):
    return json.dumps({'images': [base64.b64encode(path.read_bytes()).decode()]})


def head(length, host='127.0.0.1'):
    text = f'POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n'
    return text.encode()


def read_all(connection):
    """Returns what comes until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b''.join(parts)


@pytest.mark.slow
def test_it_answers_with_each_network(server, digit_file):
    status, models = server.json('/v1/models')
    assert status == 200 and [model['name'] for model in models['models']] == [DIGITS, 'program']
    assert [model['explains'] for model in models['models']] == [True, False]
    answers = [
        server.json('/v1/predict', json.dumps({**json.loads(body(digit_file)), 'model': m['name']})) for m in models['models']
    ]
    assert [status for status, _ in answers] == [200, 200]
    first, second = (answer['predictions'][0] for _, answer in answers)
    assert first['class'] == second['class'] == '0' and first['probability'] == pytest.approx(second['probability'], abs=1e-4)
    assert server.json('/v1/explain', body(digit_file))[1]['predictions'][0]['explained'] == '0'
    status, answer = server.json('/v1/explain', json.dumps({**json.loads(body(digit_file)), 'model': 'program'}))
    assert status == 501 and 'cannot be explained' in answer['error']['message']


@pytest.mark.slow
def test_every_answer_has_headers_that_bind_browsers(server):
    for path in ('/', '/page.js', '/page.css', '/v1/models', '/nothing', '/openapi.json'):
        status, headers, _ = server.ask(path)
        assert status == (404 if path == '/nothing' else 200)
        policy = headers['content-security-policy']
        assert "default-src 'none'" in policy and 'unsafe' not in policy and "frame-ancestors 'none'" in policy
        assert headers['x-content-type-options'] == 'nosniff' and 'access-control-allow-origin' not in headers
        assert 'server' not in headers
    assert server.ask('/', method='HEAD')[0] == 200
    status, headers, _ = server.ask('/v1/predict', method='OPTIONS', Origin='https://example.org')
    assert status == 405 and 'access-control-allow-origin' not in headers


def test_pages_of_other_sites_and_other_names_of_this_machine_are_refused(server, digit_file):
    assert server.ask('/v1/predict', body(digit_file), Sec_Fetch_Site='cross-site')[0] == 403
    assert server.ask('/v1/predict', body(digit_file), Sec_Fetch_Site='same-origin')[0] == 200
    for host, status in (('evil.example', 421), (f'localhost:{server.port}', 200), ('[::1]:1', 200), ('127.0.0.1', 200)):
        assert server.ask('/v1/models', Host=host)[0] == status, host


def test_hostile_requests_are_refused_and_none_is_lost(server, digit_file):
    """300 requests of which 30 are hostile; the slow test sends 10,000."""
    limits = server.json('/v1/models')[1]['limits']
    hostile = load.hostile_requests(digit_file.read_bytes(), limits['bytes'], limits['images'])
    outcomes = asyncio.run(load.storm(server.port, load.with_images(digit_file.read_bytes()), hostile, range(300)))
    assert set(outcomes) == {'good', 'refused', 'left'} and outcomes['good'] == 270, outcomes
    assert server.stderr().count('Traceback') == 0


@pytest.mark.slow
def test_ten_thousand_requests_leave_the_memory_as_it_was(digit_file):
    from resnet_jax.benchmark import serving

    command_line = command('serve.py', DIGITS, '--port=0')['args']
    with serving.Server(command_line) as process:
        limits = process.get('/v1/models')['limits']
        row = serving.storm(process, digit_file.read_bytes(), limits, 10_000, print)
    assert row['lost'] == 0 and row['outcomes']['good'] == 9000, row
    first, *others = row['resident_bytes']
    assert max(others) < 1.1 * first, row


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server):
    with server.connect() as connection:
        request = head(10**12).replace(b'Content-Type', b'Expect: 100-continue\r\nContent-Type')
        connection.sendall(request)
        answer = read_all(connection)
    assert answer.startswith(b'HTTP/1.1 413 ') and b'100 Continue' not in answer


def test_a_body_without_a_length_is_counted(server):
    with server.connect() as connection:
        connection.sendall(head(0).replace(b'Content-Length: 0', b'Transfer-Encoding: chunked'))
        chunk = b'10000\r\n' + bytes(0x10000) + b'\r\n'
        connection.sendall(9 * chunk + b'0\r\n\r\n')
        assert read_all(connection).startswith(b'HTTP/1.1 413 ')


# The times that a server waits are constants, which a test need not wait for.
IMPATIENT = 'from resnet_jax.serve import server\nserver._HEAD_SECONDS = 0.5'


def small(*arguments, program=''):
    """A server of few programs, which starts quickly."""
    return ServeProcess(DIGITS, '--max_batch=1', *arguments, program=program)


def test_slow_clients_are_sent_away_while_others_are_answered(digit_file):
    with small('--timeout=2', program=IMPATIENT) as process, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(process.connect()) for _ in range(100)]
        for number, connection in enumerate(slow):
            connection.sendall(head(1000)[:20] if number % 2 else b'')
        slow_body = stack.enter_context(process.connect())
        slow_body.sendall(head(1000) + b'{')
        assert process.json('/v1/predict', body(digit_file))[0] == 200
        for connection in slow:
            with contextlib.suppress(ConnectionResetError):
                assert read_all(connection) == b''
        answer = read_all(slow_body)
        assert answer.startswith(b'HTTP/1.1 408 ') and b'longer than 2 seconds' in answer


def test_a_signal_ends_it_when_what_it_accepted_is_answered(digit_file):
    with small() as process, contextlib.ExitStack() as stack:
        content = body(digit_file).encode()
        half, idle = (stack.enter_context(process.connect()) for _ in range(2))
        half.sendall(head(len(content)) + content[:50])
        idle.sendall(b'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
        answer = b''
        while b'"status":"ok"' not in answer:
            answer += idle.recv(65536)
        process.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionResetError):
            while idle.recv(65536):
                pass  # an idle connection ends
        with pytest.raises(OSError):
            process.connect()
        assert process.process.poll() is None
        half.sendall(content[50:])
        answer = read_all(half)
        assert answer.startswith(b'HTTP/1.1 200 ') and b'connection: close' in answer and b'"class":"0"' in answer
        rest, _ = process.process.communicate(timeout=60)
        assert process.process.returncode == 0 and rest == 'Stopped; everything that was accepted is answered.\n'


def test_clients_that_ask_all_the_time_lose_nothing_at_the_end(digit_file):
    answered = []

    def ask_until_told(process):
        connection = http.client.HTTPConnection('127.0.0.1', process.port, timeout=60)
        with contextlib.closing(connection):
            told = False
            while not told:
                connection.request('POST', '/v1/predict', body(digit_file), {'Content-Type': 'application/json'})
                answer = connection.getresponse()
                answer.read()
                told = answer.headers.get('connection') == 'close'
                answered.append(answer.status)

    with small() as process, ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(ask_until_told, process) for _ in range(8)]
        while len(answered) < 30:
            time.sleep(0.01)
        assert process.stop(signal.SIGINT)[0] == 0
        for client in clients:
            client.result()
        assert set(answered) == {200}


def test_a_second_signal_ends_it_at_once(digit_file):
    with small() as process, process.connect() as half:
        half.sendall(head(1000) + b'{')
        process.process.send_signal(signal.SIGTERM)
        while 'Stopping' not in process.stderr():
            time.sleep(0.01)
        code, _, errors = process.stop(signal.SIGINT)
        assert code == 130 and errors.endswith('Stopped at once.\n')
