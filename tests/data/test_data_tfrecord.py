import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax.data.tfrecord import masked_crc32c, read_records
from resnet_jax.errors import InputFileError


def crc32c(data):
    """Bit by bit, from the definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(records):
    out = b''
    for data in records:
        length = struct.pack('<Q', len(data))
        out += length + struct.pack('<I', masked(length)) + data + struct.pack('<I', masked(data))
    return out


def test_the_published_check_value():
    assert crc32c(b'123456789') == 0xE3069283


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_checksums_of_many_at_once(records):
    np.testing.assert_array_equal(masked_crc32c(records), [masked(record) for record in records])


def test_checksums_of_records_of_any_length():
    rng = np.random.default_rng(0)
    records = [rng.bytes(size) for size in (0, 1, 3, 4, 5, 127, 128, 129, 131, 256, 300, 1000, 5000)]
    np.testing.assert_array_equal(masked_crc32c(records), [masked(record) for record in records])


def test_a_length_that_is_not_there_reserves_no_memory(tmp_path):
    length = struct.pack('<Q', 2**50)
    (tmp_path / 'x').write_bytes(length + struct.pack('<I', masked(length)) + b'abc')
    with pytest.raises(InputFileError, match='record 0: the file ends inside it'):
        read_records(tmp_path / 'x')


def test_reads_what_was_framed(tmp_path):
    records = [bytes([i % 256]) * (i % 50) for i in range(1100)]  # more than one block
    (tmp_path / 'x').write_bytes(frame(records))
    assert read_records(tmp_path / 'x') == records
    (tmp_path / 'empty').write_bytes(b'')
    assert read_records(tmp_path / 'empty') == []


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    good = frame([b'abc', b'', b'hello'])
    path = tmp_path / 'x'
    for bit in range(len(good) * 8):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputFileError, match='is damaged: record'):
            read_records(path)
    whole = {0, len(frame([b'abc'])), len(frame([b'abc', b'']))}
    for size in set(range(len(good))) - whole:
        path.write_bytes(good[:size])
        with pytest.raises(InputFileError, match='the file ends inside it'):
            read_records(path)
