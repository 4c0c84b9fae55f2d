"""The benchmark of the server: its clients count what they get, and what they lose."""

import asyncio
import json
import re

import pytest
from commands_support import run

from resnet_jax.benchmark import load, serving
from resnet_jax.errors import UserError


def with_server(answer, use):
    """Returns `await use(port)`, while a server calls `answer(head, writer)` for each request."""

    async def serve(reader, writer):
        try:
            while head := await reader.readuntil(b'\r\n\r\n'):
                length = int(head.lower().partition(b'content-length: ')[2].split(b'\r')[0] or 0)
                await reader.readexactly(length)
                answer(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main():
        server = await asyncio.start_server(serve, '127.0.0.1', 0)
        async with server:
            return await use(server.sockets[0].getsockname()[1])

    return asyncio.run(main())


def reply(status, content=b'{}', more=b''):
    return b'HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n%s' % (status, len(content), more, content)


def test_a_client_reads_answers_and_comes_back_after_the_end_of_its_connection():
    heads = []

    def answer(head, writer):
        heads.append(head)
        if len(heads) == 3:
            writer.close()  # without an answer
        else:
            writer.write(reply(200, b'[%d]' % len(heads), b'Connection: close\r\n' if len(heads) == 1 else b''))

    async def use(port):
        client = load.Client(port)
        answers = [await client.ask(load.post('/a', b'1234')) for _ in range(4)]
        client.close()
        return answers

    answers = with_server(answer, use)
    assert [(each.status, each.body) for each in answers] == [(200, b'[1]'), (200, b'[2]'), (0, b''), (200, b'[4]')]
    assert all(each.seconds > 0 for each in answers)
    assert heads[0].startswith(b'POST /a HTTP/1.1\r\nHost: 127.0.0.1\r\n')


def test_every_tenth_request_is_hostile_and_what_gets_another_answer_is_lost():
    hostile = [load.Hostile('first', load.post('/bad', b''), 422), load.Hostile('leaves', load.post('/good', b'')[:9], None)]

    def answer(head, writer):
        writer.write(reply(200 if b'/good' in head or b'/second' in head else 422))

    async def use(port):
        good = load.post('/good', b'')
        sound = await load.storm(port, good, hostile, range(100), clients=4)
        wrong = [load.Hostile('second', load.post('/second', b''), 413)]
        lost = await load.storm(port, load.post('/bad', b''), wrong, range(20), clients=1)
        return sound, lost

    sound, lost = with_server(answer, use)
    assert sound == {'good': 90, 'refused': 5, 'left': 5}
    assert lost == {'a good request: 422': 18, 'second: 200': 2}


def test_load_is_measured_and_a_wrong_answer_ends_it():
    status = 200

    async def use(port):
        return await load.measure_load(port, load.post('/', b''), 3, 0.1)

    taken = with_server(lambda head, writer: writer.write(reply(status)), use)
    assert len(taken) >= 3 and min(taken) > 0
    status = 503
    with pytest.raises(RuntimeError, match='the server answers 503'):
        with_server(lambda head, writer: writer.write(reply(status)), use)
    described = serving._describe([[0.001] * 99 + [0.5], [0.001] * 50], 2.0)
    assert described['images_per_second'] == {'median': 37.5, 'low': 25.0, 'high': 50.0, 'n': 2}
    assert described['p50_ms'] == pytest.approx(1.0) and described['answers'] == 150


def test_a_model_that_cannot_be_served_is_the_error_of_the_command():
    with pytest.raises(UserError, match=r'the server ended with exit code 3: no run in no/such') as error:
        serving.Server([*serving.COMMAND, 'serve', 'no/such', '--port=0'])
    assert error.value.exit_code == 3


@pytest.mark.slow
def test_the_server_is_measured_beside_onnxruntime(tmp_path):
    path = tmp_path / 'row.json'
    flags = '--serving=resnet_jax/resnet8.digits', '--rounds=2', '--seconds=0.2', '--requests=400', f'--json={path}'
    out = run('benchmark.py', *flags, timeout=600).stdout
    assert len(re.findall(r'^\| (1|8|64) \| (resnet_jax|onnxruntime), [^|]+\|( [\d.,-]+ \|){6}$', out, re.M)) == 6
    row = json.loads(path.read_text())
    for sides in row['clients'].values():
        for side in ('ours', 'onnxruntime'):
            assert sides[side]['answers'] > 0 and sides[side]['p50_ms'] <= sides[side]['p99_ms']
    assert row['storm']['lost'] == 0 and row['storm']['requests'] == 400
    assert len(row['storm']['resident_bytes']) == 11 and min(row['storm']['resident_bytes']) > 2**20
