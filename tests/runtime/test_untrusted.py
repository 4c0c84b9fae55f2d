import os
import time

import pytest

from resnet_jax.errors import InputFileError
from resnet_jax.runtime.untrusted import check_owned_files, parse_json, printable, read_text


def test_text_of_a_regular_file_is_read_whatever_its_bytes(tmp_path):
    (tmp_path / 'a').write_bytes('ü\n'.encode() + b'\xff')
    assert read_text(tmp_path / 'a') == 'ü\n\ufffd'
    (tmp_path / 'link').symlink_to(tmp_path / 'a')
    assert read_text(tmp_path / 'link').startswith('ü')


@pytest.mark.parametrize('kind', ['missing', 'folder', 'fifo', 'device', 'huge'])
def test_what_would_hang_or_fill_the_memory_is_refused(tmp_path, kind):
    path = tmp_path / kind
    if kind == 'folder':
        path.mkdir()
    elif kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    elif kind == 'huge':
        with path.open('wb') as file:
            file.truncate(2**40)  # sparse: takes no space
    with pytest.raises(OSError):
        read_text(path)


def test_json_of_a_run_is_parsed():
    assert parse_json('{"a": [1, -2.5, true, null, "x"], "b": 9223372036854775807}') == {
        'a': [1, -2.5, True, None, 'x'],
        'b': 2**63 - 1,
    }


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{',
        'NaN',
        '[Infinity]',
        '1e999',
        '-1e400',
        '1' * 400,
        '1' * 100_000,
        '[' * 100_000,
        '[' * 101 + ']' * 101,
        '{"a":' * 5000,
    ],
)
def test_other_json_is_a_value_error(text):
    start = time.process_time()
    with pytest.raises(ValueError):
        parse_json(text)
    assert time.process_time() - start < 2


def test_control_characters_become_escapes():
    assert printable('a\x1b[2J\x07\x9b1m\r\nü 😀\u202e') == 'a\\x1b[2J\\x07\\x9b1m\\r\\nü 😀\\u202e'
    assert printable('a\nb\x1b', keep='\n') == 'a\nb\\x1b' and printable(3) == '3'


@pytest.mark.parametrize('kind', ['link', 'dangling', 'fifo'])
def test_an_entry_that_leads_out_of_a_run_folder_is_named(tmp_path, kind):
    folder = tmp_path / 'run'
    check_owned_files(folder)  # not there yet
    (folder / 'plots').mkdir(parents=True)
    (folder / 'run.log').touch()
    check_owned_files(folder)
    entry = folder / 'metrics.jsonl'
    if kind == 'fifo':
        os.mkfifo(entry)
    else:
        entry.symlink_to(tmp_path if kind == 'link' else tmp_path / 'nothing')
    with pytest.raises(InputFileError, match=r'metrics\.jsonl is a (link|pipe)'):
        check_owned_files(folder)
