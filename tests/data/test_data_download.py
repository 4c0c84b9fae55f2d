import dataclasses
import http.server
import os
import socket
import threading
import time

import pytest
from cifar_copies import official_file

from resnet_jax.data.download import download, require_reachable
from resnet_jax.data.sources import Copy
from resnet_jax.errors import InputFileError, ResourceError
from resnet_jax.runtime import download as transfer


class Server:
    """Serves `body`, and for the first requests whatever `script` says: 'cut', 503, 'html', ..."""

    def __init__(self, body):
        self.body, self.script, self.ranges, self.paths, self.honour_range = body, [], [], [], True
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}/archive.tar.gz'
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request):
        wanted = request.headers.get('Range')
        self.ranges.append(wanted)
        self.paths.append(request.path)
        action = self.script.pop(0) if self.script else None
        if isinstance(action, int):
            return request.send_error(action)
        body, kind, start = self.body, 'application/gzip', 0
        headers = action if isinstance(action, dict) else {}
        if action == 'html':
            body, kind = b'<html>please log in</html>', 'text/html'
        if 'Location' in headers:
            request.send_response(302)
        elif wanted and self.honour_range:
            start = int(wanted.removeprefix('bytes=').removesuffix('-'))
            request.send_response(206)
            request.send_header('Content-Range', headers.pop('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}'))
        else:
            request.send_response(200)
        request.send_header('Content-Type', kind)
        for name, value in headers.items():
            request.send_header(name, value)
        if action == 'a chunk of endless length':
            request.send_header('Transfer-Encoding', 'chunked')
        elif action not in ('no length', 'slow') and 'Content-Length' not in headers:
            request.send_header('Content-Length', str(len(body) - start))
        request.end_headers()
        if action == 'stall':
            time.sleep(1)
        body = body[start:]
        while action == 'throttled' and body:  # 80 kB/s
            request.wfile.write(body[:1600])
            body = body[1600:]
            time.sleep(0.02)
        while action == 'a chunk of endless length':  # until the client has gone
            request.wfile.write(b'0')
            time.sleep(0.02)
        while action == 'slow' and body:  # until the client has gone
            request.wfile.write(body[:1])
            body = body[1:]
            time.sleep(0.02)
        request.wfile.write(body[: len(body) // 2] if action == 'cut' else body)


@pytest.fixture
def server(tiny, monkeypatch):
    monkeypatch.setattr(transfer, 'BACKOFF_SECONDS', 0)
    server = Server(tiny.path.read_bytes())
    tiny.fit([server.url])
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def mirrors(tiny, monkeypatch):
    """Three servers with the same file. A server is slow after 0.3 seconds below 400 kB/s."""
    monkeypatch.setattr(transfer, 'BACKOFF_SECONDS', 0)
    monkeypatch.setattr(transfer, 'TIMEOUT_SECONDS', 0.3)
    servers = [Server(tiny.path.read_bytes()) for _ in range(3)]
    tiny.fit([server.url for server in servers])
    yield servers
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def path(tmp_path):
    (tmp_path / 'downloads').mkdir()
    return tmp_path / 'downloads' / 'cifar-10-binary.tar.gz'


def _part(path):
    return path.with_name(f'{path.name}.part')


def _fetch(tiny, path):
    assert download(tiny.source, path.parent, path.parent) == (path, tiny.source.copies[0])
    assert path.read_bytes() == tiny.path.read_bytes() and not _part(path).exists()


def _fails(tiny, path, match):
    with pytest.raises(InputFileError, match=match) as error:
        download(tiny.source, path.parent, path.parent)
    assert not path.exists() and '127.0.0.1:' in str(error.value) and '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('script', [[], ['no length'], [503, 429], ['no length', 500]])
def test_download(script, tiny, server, path, capsys):
    server.script = script
    _fetch(tiny, path)
    assert 'Downloading' in capsys.readouterr().err


def test_goes_on_where_it_was_cut(tiny, server, path):
    server.script = ['cut', 'cut']
    _fetch(tiny, path)
    size = tiny.file.size
    assert server.ranges == [None, f'bytes={size // 2}-', f'bytes={size // 2 + (size - size // 2) // 2}-']


def test_goes_on_where_an_earlier_command_stopped(tiny, server, path):
    _part(path).write_bytes(server.body[:1000])
    _fetch(tiny, path)
    assert server.ranges == ['bytes=1000-']


def test_a_pipe_instead_of_a_part_is_refused_at_once(tiny, server, path):
    os.mkfifo(_part(path))
    with pytest.raises(ResourceError, match='not a regular file'):
        download(tiny.source, path.parent, path.parent)


def test_a_whole_part_needs_no_request(tiny, server, path):
    _part(path).write_bytes(server.body)
    _fetch(tiny, path)
    assert server.ranges == []


def test_server_without_range(tiny, server, path):
    server.honour_range, server.script = False, ['cut']
    _fetch(tiny, path)


@pytest.mark.parametrize('size', [1000, 10**7])
def test_a_part_of_something_else_is_dropped(size, tiny, server, path):
    _part(path).write_bytes(b'x' * size)
    _fetch(tiny, path)
    assert server.ranges[-1] is None


def test_range_not_satisfiable(tiny, server, path):
    _part(path).write_bytes(b'x' * 1000)
    server.script = [416]
    _fetch(tiny, path)


def test_stalled_connection_is_given_up_and_resumed(tiny, server, path, monkeypatch):
    monkeypatch.setattr(transfer, 'TIMEOUT_SECONDS', 0.3)
    server.script = ['stall']
    _fetch(tiny, path)


def test_a_chunk_whose_length_never_ends_is_given_up(tiny, server, path, monkeypatch):
    monkeypatch.setattr(transfer, 'TIMEOUT_SECONDS', 0.3)
    server.script = ['a chunk of endless length']
    _fetch(tiny, path)
    server.script = ['a chunk of endless length'] * 99
    path.unlink()
    assert 'less than 1000 bytes a second; 5 attempts' in _fails(tiny, path, 'cannot be downloaded')


def test_a_byte_now_and_then_is_no_connection(tiny, server, path, monkeypatch):
    monkeypatch.setattr(transfer, 'TIMEOUT_SECONDS', 0.3)
    server.script = ['slow']
    _fetch(tiny, path)
    assert len(server.ranges) == 2 and 0 < int(server.ranges[1].removeprefix('bytes=').removesuffix('-')) < 1000
    server.script = ['slow'] * 99
    path.unlink()
    assert 'less than 1000 bytes a second; 5 attempts' in _fails(tiny, path, 'cannot be downloaded')


@pytest.mark.parametrize('length', ['abc', '-5', '', '1e3', '12, 12'])
def test_a_length_that_is_no_number_is_as_none(length, tiny, server, path):
    server.script = [{'Content-Length': length}]
    _fetch(tiny, path)


@pytest.mark.parametrize('value', ['bytes 7-9/10', 'nonsense', ''])
def test_another_part_than_asked_for_is_not_used(value, tiny, server, path):
    _part(path).write_bytes(server.body[:1000])
    server.script = [{'Content-Range': value}]
    _fetch(tiny, path)
    assert server.ranges == ['bytes=1000-', None]


def test_a_server_that_has_no_part_of_anything(tiny, server, path):
    server.script = [416] * 99
    _fails(tiny, path, 'the server answered 416 .*5 attempts')


@pytest.mark.parametrize(
    'address', ['http://[bad', 'http://host:port/', 'file:///etc/passwd', 'http://' + 70 * 'a' + '/', '//']
)
def test_sent_to_an_address_that_is_none(address, tiny, server, path):
    server.script = [{'Location': address}] * 99
    _fails(tiny, path, 'cannot be downloaded')


def test_wrong_hash(tiny, server, path):
    server.body = server.body[:-1] + b'x'
    _fails(tiny, path, f'SHA-256 [0-9a-f]{{64}}: expected {tiny.file.sha256}')
    assert not _part(path).exists() and len(server.ranges) == 1


def test_html_instead_of_an_archive(tiny, server, path):
    server.script = ['html'] * 9
    _fails(tiny, path, f'text/html: expected an archive of {tiny.file.size} bytes')
    assert not _part(path).exists()


def test_not_found(tiny, server, path):
    server.script = [404] * 9
    _fails(tiny, path, 'the server answered 404 Not Found.*data_archive')
    assert len(server.ranges) == 1


def test_gives_up_in_the_end(tiny, server, path):
    server.script = ['cut'] * 99
    message = _fails(tiny, path, 'closed after .* 5 attempts.*try again')
    assert 'TFDS_DATA_DIR' in message and _part(path).stat().st_size < tiny.file.size


def test_full_disk(tiny, server, path):
    _part(path).mkdir()
    with pytest.raises(ResourceError, match='cannot write'):
        download(tiny.source, path.parent, path.parent)


@pytest.mark.parametrize('answer', [None, 404, 503, 'html'])
def test_reachable_whatever_it_answers(answer, tiny, server, path):
    server.script = [answer]
    require_reachable(tiny.source, path.parent)


def test_unreachable(tiny, server, path):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(InputFileError, match='refused'):
        require_reachable(tiny.source, path.parent)


def test_a_name_lookup_that_hangs(tiny, path, monkeypatch):
    tiny.fit(['http://one/a.tar.gz', 'http://two/a.tar.gz'])
    answered = threading.Event()
    monkeypatch.setattr(transfer.urllib.request, 'urlopen', lambda *args, **kwargs: answered.wait(120))
    monkeypatch.setattr(transfer, 'TIMEOUT_SECONDS', 0.1)
    with pytest.raises(InputFileError, match=r'one, two: no answer in 0\.1 s|two, one: no'):
        require_reachable(tiny.source, path.parent)
    answered.set()


def _starts(server):
    return [int(wanted.removeprefix('bytes=').removesuffix('-')) if wanted else 0 for wanted in server.ranges]


def test_a_throttled_server_is_left_for_the_next_which_goes_on_with_its_part(tiny, mirrors, path, caplog):
    mirrors[0].script = ['throttled']
    _fetch(tiny, path)
    assert _starts(mirrors[0]) == [0] and len(_starts(mirrors[1])) == 1 and _starts(mirrors[2]) == []
    assert 1600 <= _starts(mirrors[1])[0] < tiny.file.size
    assert 'kB/s: trying another server' in caplog.text


@pytest.mark.parametrize('action', [404, 503, 'stall', 'html', 'closed'])
def test_a_dead_server_is_left_for_the_next_at_once(action, tiny, mirrors, path):
    if action == 'closed':
        mirrors[0].http.server_close()
    mirrors[0].script = [action]
    _fetch(tiny, path)
    assert len(mirrors[0].ranges) == (action != 'closed') and mirrors[1].ranges == [None] and mirrors[2].ranges == []


def test_if_all_are_slow_the_fastest_goes_on(tiny, mirrors, path, monkeypatch):
    monkeypatch.setattr(transfer, 'LEAST', 1)
    for server, action in zip(mirrors, ('slow', 'throttled', 'slow'), strict=True):
        server.script = [action] * 9
    _fetch(tiny, path)
    asked = [_starts(server) for server in mirrors]
    assert [len(starts) for starts in asked] == [1, 2, 1]
    assert 0 < asked[1][0] < asked[2][0] < asked[1][1]  # each went on where the one before had come


def test_a_server_that_breaks_off_is_asked_again_before_another_one(tiny, mirrors, path):
    mirrors[0].script = ['cut']
    _fetch(tiny, path)
    assert _starts(mirrors[0]) == [0, tiny.file.size // 2] and mirrors[1].ranges == []


def test_a_server_with_another_file_of_the_same_size_does_not_spoil_the_rest(tiny, mirrors, path):
    mirrors[0].body = bytes(len(mirrors[0].body))
    _fetch(tiny, path)
    assert _starts(mirrors[1]) == [0]


def test_the_other_format_is_taken_where_no_server_has_the_first(tiny, mirrors, path, tmp_path):
    for server in mirrors[:2]:
        server.script = [404]
    _part(path).write_bytes(tiny.path.read_bytes()[:1000])
    other = tmp_path / 'cifar-10-python.tar.gz'
    other.write_bytes(mirrors[2].body[::-1])
    mirrors[2].body = other.read_bytes()
    first = Copy('binary', (official_file(tiny.path, [server.url for server in mirrors[:2]]),), tiny.folder)
    second = Copy('python', (official_file(other, [mirrors[2].url]),), 'cifar-10-batches-py')
    source = dataclasses.replace(tiny.source, copies=(first, second))
    assert download(source, path.parent, path.parent) == (path.with_name(other.name), second)
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [other.name]  # and no part of the first


def test_every_server_is_named_with_its_reason(tiny, mirrors, path):
    for server, action in zip(mirrors, (404, 404, 'html'), strict=True):
        server.script = [action] * 9
    hosts = [server.url.split('/')[2] for server in mirrors]
    message = _fails(tiny, path, f'{hosts[0]}, {hosts[1]}: the server answered 404 Not Found; {hosts[2]}: .* of text/html')
    assert 'data_archive=FILE' in message


def test_files_of_the_hub_come_from_its_endpoint(tiny, server, path, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', server.url.rpartition('/')[0] + '/')
    tiny.fit(['https://huggingface.co/datasets/owner/name/resolve/main/archive.tar.gz'])
    _fetch(tiny, path)
    assert server.paths == ['/datasets/owner/name/resolve/main/archive.tar.gz']


def test_the_watch_over_a_response_that_is_closed_ends_quietly(monkeypatch):
    monkeypatch.setattr(transfer, 'TIMEOUT_SECONDS', 0.01)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
        response = http.client.HTTPResponse(ours)
        response.begin()
        response.close()
        with transfer._hanging_up_when_idle(response, lambda: 0) as hung_up:
            assert hung_up.wait(60)
            for thread in threading.enumerate():
                if thread.name.endswith('(watch)'):
                    thread.join(60)  # pytest reports what it raises
