"""Files of weights made by torch and by hand, for the tests."""

import io
import pickle
import zipfile

import torch


def torch_file(value, legacy=False, **options):
    """The bytes that torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy, **options)
    return file.getvalue()


def zip_file(program, entries=(), compression=zipfile.ZIP_STORED):
    """A file in torch's zip format with a pickle of one's own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive:
        archive.writestr('model/data.pkl', program)
        for name, content in {'version': b'3\n', **dict(entries)}.items():
            archive.writestr(f'model/{name}', content)
    return file.getvalue()


def legacy_file(program):
    """A file in torch's legacy format with a pickle of one's own and no storages."""
    head = (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True})
    return b''.join(pickle.dumps(part, 2) for part in head) + program + pickle.dumps([], 2)


def tensor_program(shape, strides, size, offset=0, storage=b'FloatStorage', key='0'):
    """A pickle of {'a': tensor} in which every number is what one says it is. Protocol 2, with 8-byte integers."""

    def number(value):
        return b'\x8a\x08' + value.to_bytes(8, 'little', signed=True)

    def text(value):
        return b'X' + len(value).to_bytes(4, 'little') + value.encode()

    def numbers(values):
        return b'(' + b''.join(map(number, values)) + b't'

    identifier = b'(' + text('storage') + b'ctorch\n' + storage + b'\n' + text(key) + text('cpu') + number(size) + b'tQ'
    view = number(offset) + numbers(shape) + numbers(strides) + b'\x89ccollections\nOrderedDict\n)R'
    return b'\x80\x02}(' + text('a') + b'ctorch._utils\n_rebuild_tensor_v2\n(' + identifier + view + b'tRu.'
