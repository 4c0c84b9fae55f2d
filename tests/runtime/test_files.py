import json
import multiprocessing
import os
import resource

import pytest

from resnet_jax.runtime.files import partial_pattern, write_atomically


def write_many(path, letter, times):
    for i in range(times):
        write_atomically(path, json.dumps({'letter': letter, 'text': letter * (1000 + i)}))


def test_two_writers_never_give_a_reader_a_part(tmp_path):
    path = tmp_path / 'result.json'
    write_atomically(path, json.dumps({'letter': 'c', 'text': 'c'}))
    context = multiprocessing.get_context('spawn')
    writers = [context.Process(target=write_many, args=(path, letter, 1000)) for letter in 'ab']
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


def test_what_a_killed_writer_leaves_is_found_by_the_name_of_its_file(tmp_path):
    process = multiprocessing.get_context('spawn').Process(target=_write_and_die, args=(tmp_path / 'a.json',))
    process.start()
    process.join()
    assert len(list(tmp_path.glob(partial_pattern('a.json')))) == 1 and not list(tmp_path.glob(partial_pattern('b.json')))


def _write_and_die(path):
    write_atomically(path, lambda file: os._exit(1))
