"""Tiny copies of CIFAR in every format in which the real one exists."""

import dataclasses
import hashlib
import io
import itertools
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from resnet_jax.data.sources import Copy, File

NUM_TRAIN, NUM_TEST, GROUP = 20, 8, 7


class Tiny:
    """A small official-format archive, its contents, and a `Source` that describes it."""

    def __init__(self, official, folder):
        rng = np.random.default_rng(len(official.labels))
        self.image, self.label, self.members = {}, {}, {}
        for split, files, total in (
            ('train', official.train_files, NUM_TRAIN),
            ('test', official.test_files, NUM_TEST),
        ):
            image = rng.integers(0, 256, (total, 32, 32, 3), np.uint8)
            labels = [rng.integers(0, label.num_classes, total).astype(np.uint8) for label in official.labels]
            rows = np.concatenate([np.stack(labels, 1), image.transpose(0, 3, 1, 2).reshape(total, -1)], axis=1)
            self.image[split] = image
            self.label[split] = dict(zip([label.key for label in official.labels], labels, strict=True))
            for name, block in zip(files, np.split(rows, len(files)), strict=True):
                self.members[name] = block.tobytes()
        for label in official.labels:
            names = [f'{label.key}_{i}' for i in range(label.num_classes)]
            self.members[label.names_file] = ('\n'.join(names) + '\n\n').encode()
        (copy,) = [copy for copy in official.copies if copy.form == 'binary']
        self.path, self.folder = folder / copy.files[0].name, copy.folder
        md5 = {name: hashlib.md5(self.members[name]).hexdigest() for name in official.md5}
        self.source = dataclasses.replace(official, num_train=NUM_TRAIN, num_test=NUM_TEST, md5=md5)
        self.write()

    def write(self, members=None, extra=()):
        """Writes the archive anew, from other members if given; returns the source with its right size and hash."""
        with tarfile.open(self.path, 'w:gz') as tar:
            for name, data in (self.members if members is None else members).items():
                info = tarfile.TarInfo(f'{self.folder}/{name}')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for info in extra:
                tar.addfile(info)
        return self.fit()

    def fit(self, urls=()):
        """Takes what is there for official, and for the only copy."""
        self.source = dataclasses.replace(self.source, copies=(Copy('binary', (official_file(self.path, urls),), self.folder),))
        return self.source

    @property
    def file(self):
        return self.source.copies[0].files[0]

    def write_python(self, path, change=lambda name, data: data):
        """Writes the same images as an archive in python form; returns a source that takes it for official."""
        names = {'train': self.source.python_train_files, 'test': self.source.python_test_files}
        files = {}
        for split, parts in names.items():
            planes = self.image[split].transpose(0, 3, 1, 2).reshape(len(self.image[split]), -1)
            for name, rows in zip(parts, np.split(np.arange(len(planes)), len(parts)), strict=True):
                labels = {each.python_key: self.label[split][each.key][rows].tolist() for each in self.source.labels}
                files[name] = pickled({'batch_label': name, **labels, 'data': planes[rows], 'filenames': ['a.png'] * len(rows)})
        lists = {each.python_names: [f'{each.key}_{i}' for i in range(each.num_classes)] for each in self.source.labels}
        files[self.source.python_names_file] = pickled({'num_vis': 3072, **lists})
        with tarfile.open(path, 'w:gz') as tar:
            for name, data in files.items():
                data = change(name, data)
                info = tarfile.TarInfo(f'python/{name}')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return dataclasses.replace(self.source, copies=(Copy('python', (official_file(path),), 'python'),))

    def write_tables(self, folder, train_order=slice(None), change=lambda row: row):
        """Writes the same images as two tables of Hugging Face, the training images in another order if one is given."""
        folder.mkdir(parents=True)
        for split, order in (('train', train_order), ('test', slice(None))):
            columns = {'img': [{'bytes': png(image), 'path': None} for image in self.image[split][order]]}
            columns |= {each.column: self.label[split][each.key][order].tolist() for each in self.source.labels}
            features = {'img': {'_type': 'Image'}} | {
                each.column: {'_type': 'ClassLabel', 'names': [f'{each.key}_{i}' for i in range(each.num_classes)]}
                for each in self.source.labels
            }
            write_table(folder / f'{split}-00000-of-00001.parquet', change(columns), features, row_group_size=GROUP)
        files = tuple(official_file(path) for path in sorted(folder.iterdir(), reverse=True))
        return dataclasses.replace(self.source, copies=(Copy('parquet', files),))


def official_file(path, urls=()):
    """Takes a file for official."""
    data = path.read_bytes()
    return File(path.name, len(data), hashlib.sha256(data).hexdigest(), tuple(urls))


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    return buffer.getvalue()


def write_table(path, columns, features=None, **options):
    """Writes a table; features is the description that `datasets` puts into the schema."""
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({'huggingface': json.dumps({'info': {'features': features}})})
    pq.write_table(table, path, **options)


def pickled(value):
    """A pickle as cPickle of Python 2 wrote it in protocol 2: texts are byte strings, and an array is one of an old NumPy.

    `tests/data/test_data_copies.py` compares with the published MD5 of a real file.
    """
    numbers = itertools.count(1)

    def put():
        number = next(numbers)
        return b'q' + bytes([number]) if number < 256 else b'r' + number.to_bytes(4, 'little')

    def write(value):
        if isinstance(value, dict):
            return b'}' + put() + b'(' + b''.join(write(each) for pair in value.items() for each in pair) + b'u'
        if isinstance(value, list):
            return b']' + put() + b'(' + b''.join(map(write, value)) + b'e'
        if isinstance(value, str):
            return b'U' + bytes([len(value)]) + value.encode() + put()
        if isinstance(value, int):
            return b'K' + bytes([value]) if value < 256 else b'M' + value.to_bytes(2, 'little')
        made = b'cnumpy.core.multiarray\n_reconstruct\n' + put() + b'cnumpy\nndarray\n' + put() + b'K\x00\x85' + write('b')
        dtype = b'cnumpy\ndtype\n' + put() + write('u1') + b'K\x00K\x01\x87' + put() + b'R' + put() + b'(K\x03' + write('|')
        dtype += b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
        state = b'(K\x01' + b''.join(map(write, value.shape)) + b'\x86' + put() + dtype + b'\x89'
        state += b'T' + value.nbytes.to_bytes(4, 'little') + value.tobytes() + put() + b't'
        return made + b'\x87' + put() + b'R' + put() + state + b'b'

    return b'\x80\x02' + write(value) + b'.'
