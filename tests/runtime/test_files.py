import hashlib
import json
import multiprocessing
import os
import resource

import pytest

from resnet_jax.runtime.files import folder_in_whole, one_process, sha256_of, write_atomically, write_json


def write_many(path, letter, times):
    for i in range(times):
        write_atomically(path, json.dumps({'letter': letter, 'text': letter * (1000 + i)}))


def test_two_writers_never_give_a_reader_a_part(tmp_path):
    path = tmp_path / 'result.json'
    write_atomically(path, json.dumps({'letter': 'c', 'text': 'c'}))
    context = multiprocessing.get_context('spawn')
    writers = [context.Process(target=write_many, args=(path, letter, 300)) for letter in 'ab']
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        content = json.loads(path.read_text())
        assert set(content['text']) == {content['letter']}
        seen.add(content['letter'])
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert {'a', 'b'} & seen and [p.name for p in tmp_path.iterdir()] == ['result.json']


@pytest.mark.parametrize('data', [b'\x00\xff', 'text \N{SNOWMAN}', lambda file: file.write(b'from a function')])
@pytest.mark.parametrize('durable', [False, True])
def test_bytes_text_and_functions(tmp_path, data, durable):
    path = tmp_path / 'file'
    assert write_atomically(path, data, durable=durable) == path
    expected = b'from a function' if callable(data) else data.encode() if isinstance(data, str) else data
    assert path.read_bytes() == expected and path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022))


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    path = write_atomically(tmp_path / 'file', 'old')

    def fail(file):
        file.write(b'half')
        raise RuntimeError('interrupted')

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError):
            write_atomically(path, 'x' * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == 'old' and [p.name for p in tmp_path.iterdir()] == ['file']


def killed_writer(function, path):
    """Runs a function in a process that dies in the middle of it; returns what it has left."""
    process = multiprocessing.get_context('spawn').Process(target=function, args=(path,))
    process.start()
    process.join()
    (left,) = [entry for entry in path.parent.iterdir() if entry.name.endswith('.partial')]
    return left


def _write_and_die(path):
    write_atomically(path, lambda file: os._exit(1))


def _fill_and_die(path):
    with folder_in_whole(path) as partial:
        (partial / 'half').write_text('half')
        os._exit(1)


@pytest.mark.parametrize('function', [_write_and_die, _fill_and_die])
def test_what_a_killed_process_leaves_goes_with_the_next_write_into_the_folder(function, tmp_path):
    odd = tmp_path / 'a [1]*\n'
    killed_writer(function, odd)
    theirs = [tmp_path / name for name in ('.a.partial', '.a.1-2.partial', 'a.12-0123abcd.partial', '.hidden')]
    for path in theirs:
        path.write_text('not ours')
    write_atomically(tmp_path / 'b.json', 'b')
    assert {*tmp_path.iterdir()} == {tmp_path / 'b.json', *theirs}


def test_what_another_process_is_writing_stays(tmp_path):
    seen = []

    def write(file):
        process = multiprocessing.get_context('spawn').Process(target=write_many, args=(tmp_path / 'b.json', 'b', 1))
        process.start()
        process.join()
        seen.extend(path.name for path in tmp_path.iterdir())
        file.write(b'whole')

    assert write_atomically(tmp_path / 'file', write).read_text() == 'whole'
    assert [name for name in seen if name.startswith('.file.')]
    with folder_in_whole(tmp_path / 'folder') as partial:
        write_atomically(tmp_path / 'file', 'again')
        (partial / 'a').write_text('a')
    assert (tmp_path / 'folder' / 'a').read_text() == 'a'


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), folder_in_whole(tmp_path / 'new' / 'folder') as partial:
        (partial / 'a').write_text('a')
        raise RuntimeError
    assert not [*(tmp_path / 'new').iterdir()]


def test_text_that_no_encoding_has_is_escaped(tmp_path):
    assert write_atomically(tmp_path / 'a', 'caf\xe9 \udcff').read_text(encoding='utf-8') == 'caf\xe9 \\udcff'


def test_json_and_its_checksum(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, {'a': [1]})
    assert path.read_text() == '{\n "a": [\n  1\n ]\n}\n' and json.loads(path.read_text()) == {'a': [1]}
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_pipe_instead_of_a_lock_is_refused_at_once(tmp_path):
    path = tmp_path / 'file.lock'
    os.mkfifo(path)
    with pytest.raises(OSError, match='device or address'), one_process(path, ''):
        pass
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match='not a regular file'), one_process(path, ''):
        pass
    os.close(reader)
