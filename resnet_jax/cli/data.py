"""Prepares, checks and describes a data set: {name} folder:pictures [--image_size=64] [--samples=samples.png] [--json]

The data set is a name as in config.dataset: cifar10, cifar100, digits, folder:PATH with images in one folder per class,
arrays:FILE.npz, or your own. Training with the same options starts at once afterwards.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli import command
from resnet_jax.config import TrainConfig, choices
from resnet_jax.errors import ConfigError, ResourceError
from resnet_jax.runtime.untrusted import printable
from resnet_jax.typing import Json

FLAGS = command.Flags()
FLAGS.define('path', 'data_dir', None, 'tfds folder; by default TFDS_DATA_DIR, else ~/tensorflow_datasets.')
FLAGS.define('path', 'data_archive', None, 'Official archive to prepare the data from, instead of a download.')
FLAGS.define(
    'integer',
    'image_size',
    TrainConfig.image_size,
    'Height and width to resize images to; 0: see config.image_size.',
    lower_bound=0,
)
FLAGS.define('enum', 'resize', TrainConfig.resize, choices('resize'), 'How, see config.resize.')
FLAGS.define(
    'float',
    'test_fraction',
    TrainConfig.test_fraction,
    'Share of each class that becomes the test split where there is none.',
    0.001,
    0.999,
)
FLAGS.define(
    'enum',
    'broken_images',
    TrainConfig.broken_images,
    choices('broken_images'),
    'What an image that cannot be read does: stop, or be left out.',
)
FLAGS.define('bool', 'follow_links', TrainConfig.follow_links, 'Follow links that lead out of a folder of images.')
FLAGS.define('path', 'samples', None, 'Also write a sheet of training images of each class, as .png or .svg.')
FLAGS.define('bool', 'json', False, 'Print JSON instead of text.')

_LISTED = 30  # number of listed classes


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax data` with the arguments that are not flags.

    Raises:
      ConfigError: the arguments are not one data set, or the suffix of --samples is unknown.
      ResourceError: the sheet of samples cannot be written.
    """
    if len(arguments) != 1:
        raise ConfigError('expected one data set, as cifar10 or folder:PATH')
    samples = FLAGS.value('samples')
    if samples and Path(samples).suffix not in ('.png', '.svg'):
        raise ConfigError(f'--samples={samples} is neither a .png nor a .svg file; expected a name that ends in one of these')
    from resnet_jax.data import LoadOptions, find_dataset
    from resnet_jax.data.describe import describe_dataset, sample_images
    from resnet_jax.runtime.console import log_to_console

    log_to_console('stderr')
    fields = ('data_dir', 'data_archive', 'image_size', 'resize', 'test_fraction', 'broken_images', 'follow_links')
    given = {name: FLAGS.value(name) for name in fields if FLAGS.value(name) is not None}
    options = LoadOptions.of(TrainConfig.from_mapping(given))
    dataset = find_dataset(arguments[0], options).dataset
    facts = describe_dataset(dataset)
    if samples:
        from resnet_jax.report.figures import save
        from resnet_jax.report.samples import draw_samples

        try:
            save(draw_samples(*sample_images(dataset)), Path(samples))
        except OSError as error:
            raise ResourceError(f'{samples} cannot be written: {error.strerror}; choose another place') from None
    print(json.dumps(facts) if FLAGS.value('json') else _text(facts))


def _text(facts: Json) -> str:
    counts, names = facts['counts'], facts['class_names']
    height, width, channels = facts['image_shape']
    sizes = ', '.join(f'{sum(count):,} {split}' for split, count in counts.items())
    lines = [
        f'{facts["name"]}: {sizes} images in {len(names)} classes, {height} x {width}, {"grey" if channels == 1 else "RGB"}',
        f'mean {_numbers(facts["mean"])}, std {_numbers(facts["std"])} of the training images, scaled to 0 to 1',
        f'fingerprint {facts["fingerprint"]}',
    ]
    twins = facts['duplicates']
    if twins['test_in_train']:
        also = f', {twins["with_another_label"]} of them with another label' if twins['with_another_label'] else ''
        lines.append(f'warning: {twins["test_in_train"]:,} test images are in the training set too{also}')
    else:
        lines.append('no test image is in the training set too, to the pixel')
    lines += [f'note: {note}' for note in facts['notes']]
    width = max(len(printable(name)) for name in names[:_LISTED])
    lines.append('images of each class: ' + ', '.join(counts))
    for number, name in enumerate(names[:_LISTED]):
        lines.append(f'  {printable(name):{width}}  ' + '  '.join(f'{count[number]:6,}' for count in counts.values()))
    if len(names) > _LISTED:
        fewest, most = min(counts['train']), max(counts['train'])
        lines.append(f'  and {len(names) - _LISTED:,} more; {fewest:,} to {most:,} training images in a class')
    return '\n'.join(printable(line) for line in lines)


def _numbers(values: Sequence[float]) -> str:
    return ' '.join(f'{value:.4f}' for value in values)
