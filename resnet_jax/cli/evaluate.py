"""Evaluates on a test set: {name} --workdir=runs/resnet18 [--ema] [--json], or weights from elsewhere:

{name} --weights=resnet20.th --model=resnet20 --normalization=imagenet [--dataset=cifar10] [--json]
{name} --weights=chenyaofo/resnet20.cifar10 [--json]

--tta=mirror_translate averages the logits over views of each image, and every figure says so. --compare=runs/other also reports
how the two runs' predictions differ; --corruptions adds the errors on 15 kinds of corrupted images.

--cifar10c, --cifar10_1 and --cifar10h evaluate a CIFAR-10 network on these published sets, in the files of their authors.

{name} --ensemble runs/seed0 runs/seed1 runs/seed2

evaluates the mean of the logits of several runs.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_jax import plugins
from resnet_jax.cli import command
from resnet_jax.cli.arguments import expand_home, parse_assignments
from resnet_jax.config import LARGEST_SIDE, TrainConfig, choices
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.typing import JsonDict

if TYPE_CHECKING:
    from resnet_jax.classifier import Classifier
    from resnet_jax.data import Dataset

FLAGS = command.Flags()
FLAGS.define('path', 'workdir', None, 'Run folder, as the train command makes it.')
FLAGS.define('bool', 'ema', False, 'Use the averaged parameters.')
FLAGS.define('bool', 'json', False, 'Print JSON instead of a table.')
FLAGS.define('path', 'data_dir', None, 'tfds folder, if the data has moved since.')
FLAGS.define('path', 'compare', None, 'Another finished run folder: how the answers to the same images differ.')
FLAGS.define('bool', 'corruptions', False, 'Also 15 common corruptions at 5 severities: 75 times the work.')
FLAGS.define('path', 'cifar10c', None, 'Also on CIFAR-10-C: a folder with labels.npy and 15 or 19 files such as fog.npy.')
FLAGS.define('path', 'cifar10_1', None, 'Also on CIFAR-10.1: a folder with cifar10.1_v6_data.npy and cifar10.1_v6_labels.npy.')
FLAGS.define('path', 'cifar10h', None, "Also beside people's answers, CIFAR-10H: a folder with cifar10h-counts.npy.")
FLAGS.define('bool', 'ensemble', False, 'Evaluate the mean of the logits of the run folders that follow.')
FLAGS.define(
    'path', 'weights', None, 'Instead of a run: file of weights, .pth, .pt, .th or .safetensors, or name (models --weights).'
)
FLAGS.define('string', 'model', None, 'With --weights: the name of the model, unless the file says it.')
FLAGS.define('multi_string', 'model_kwargs', [], 'With --weights: FIELD=VALUE of the model; may be repeated.')
FLAGS.define(
    'enum',
    'tta',
    None,
    choices('tta'),
    "Test-time augmentation: what the logits are averaged over; by default as the run's config or the file says, or none.",
)
FLAGS.define(
    'string',
    'dataset',
    None,
    "Data set; by default the run's, what published weights were trained on, or cifar10. Also folder:PATH.",
)
FLAGS.define('integer', 'image_size', 0, 'With --weights: height and width to resize images to.', 0, LARGEST_SIDE)
FLAGS.define(
    'string',
    'normalization',
    None,
    "With --weights: imagenet, kuangliu, ...; by default the file's or else the data set's own.",
)


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax evaluate` with the arguments that are not flags.

    Raises:
      ConfigError: flags are missing or contradict each other.
      InputFileError: the run of --compare has no predictions.
    """
    workdir, weights, ensemble = (FLAGS.value(flag) for flag in ('workdir', 'weights', 'ensemble'))
    if ensemble and (workdir or weights or FLAGS.value('compare') or len(arguments) < 2):
        raise ConfigError('--ensemble takes two run folders or more and neither --workdir, --weights nor --compare')
    if not ensemble and (arguments or bool(workdir) == bool(weights)):
        extra = f', not {arguments[0]!r}' if arguments else ''
        raise ConfigError(f'expected --workdir=FOLDER, a run folder, or --weights=FILE{extra}')
    from resnet_jax.evaluation.evaluate import evaluate
    from resnet_jax.evaluation.predictions import load_predictions
    from resnet_jax.evaluation.text import format_evaluation
    from resnet_jax.runs.reader import read_run
    from resnet_jax.runtime.console import log_to_console

    log_to_console('stderr')
    compare = FLAGS.value('compare')
    try:
        other = load_predictions(compare) if compare else None
    except InputFileError as error:
        raise InputFileError(f'{error}: resnet-jax evaluate --workdir={compare}') from None
    theirs = read_run(compare).config if compare else {}
    if ensemble:
        classifier, dataset, more = _ensemble([expand_home(folder) for folder in arguments])
    else:
        classifier, dataset, more = _run(workdir) if workdir else _weights(weights)
    if FLAGS.value('tta'):
        classifier = dataclasses.replace(classifier, tta=FLAGS.value('tta'))
    origin = classifier.origin
    batch_size = origin.config.eval_batch_size if origin.config else TrainConfig.eval_batch_size
    published = _published_sets(classifier, dataset, batch_size)  # first: their files may be missing
    metrics, besides = evaluate(
        classifier,
        dataset,
        batch_size=batch_size,
        folder=workdir if workdir and not FLAGS.value('ema') else None,
        other=other,
        other_name=compare or '',
        corruptions=FLAGS.value('corruptions'),
    )
    besides |= published
    if compare and origin.config:
        ours = origin.config.to_dict()
        differ = {name: [theirs[name], ours[name]] for name in ours if name in theirs and theirs[name] != ours[name]}
        besides['agreement']['configs'] = differ
    if FLAGS.value('json'):
        print(json.dumps({**metrics, **more, **besides}))
        return
    title = f'{origin.model} from {weights}, {dataset.name}'
    if ensemble:
        title = f'ensemble of {len(arguments)} runs, {dataset.name}'
    if workdir:
        title = f'{origin.model} after {origin.step} iterations, {dataset.name}'
    print(format_evaluation(title, dataset.class_names, metrics, {**more, **besides}))


def _published_sets(classifier: 'Classifier', dataset: 'Dataset', batch_size: int) -> JsonDict:
    from resnet_jax.data.cifar import official_test_order
    from resnet_jax.data.sources import SOURCES
    from resnet_jax.evaluation import cifar_variants
    from resnet_jax.evaluation.predictions import predict_split

    results: JsonDict = {}
    if folder := FLAGS.value('cifar10h'):
        cifar_variants.check_cifar10(classifier)
        if dataset.name != 'cifar10':
            raise ConfigError(f'--cifar10h is of the test images of cifar10, not of {dataset.name}; leave it out')
        config = classifier.origin.config
        order = official_test_order(SOURCES['cifar10'], FLAGS.value('data_dir') or (config.data_dir if config else ''))
        predictions = predict_split(classifier, dataset, batch_size)
        results['cifar10h'] = cifar_variants.compare_cifar10h(predictions, folder, order)
    if folder := FLAGS.value('cifar10_1'):
        results['cifar10_1'] = cifar_variants.evaluate_cifar10_1(classifier, folder, batch_size)
    if folder := FLAGS.value('cifar10c'):
        results['cifar10c'] = cifar_variants.evaluate_cifar10c(classifier, folder, batch_size)
    return results


def _run(workdir: str) -> 'tuple[Classifier, Dataset, JsonDict]':
    from resnet_jax.classifier import load_run

    classifier = load_run(workdir, ema=FLAGS.value('ema'))
    return classifier, _dataset(workdir, classifier), {'step': classifier.origin.step}


def _dataset(workdir: str, classifier: 'Classifier') -> 'Dataset':
    """Returns the data set of --dataset, or else of the run that gave the classifier."""
    from resnet_jax.data import LoadOptions, find_dataset
    from resnet_jax.runs.metadata import modules_of_run

    config = classifier.origin.config
    assert config is not None
    options = LoadOptions.of(config, default_size=classifier.image_shape[0])
    options = dataclasses.replace(options, data_dir=FLAGS.value('data_dir') or config.data_dir)
    try:
        dataset = find_dataset(FLAGS.value('dataset') or config.dataset, options).dataset
    except ConfigError as error:
        plugins.check_imported(modules_of_run(workdir), workdir, error)
        raise
    _check_same_names(classifier, dataset)
    return dataset


def _check_same_names(classifier: 'Classifier', dataset: 'Dataset') -> None:
    ours, theirs = classifier.class_names, dataset.class_names
    places = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    if not places or len(ours) != len(theirs):  # another number of classes is refused with a line of its own
        return
    if dataset.fingerprint == classifier.origin.fingerprint:  # the run's own images and labels, under other names
        return
    if tuple(map(str, range(len(ours)))) in (ours, theirs) and {*ours} != {*theirs}:  # arrays without names
        return
    shown = [', '.join(repr(names[i][:40]) for i in places[:5]) + ', ...' * (len(places) > 5) for names in (ours, theirs)]
    raise ConfigError(
        f'the network has the classes {shown[0]} where {dataset.name} has {shown[1]}; '
        'expected the same class names in the same order: choose data of the classes that it was trained on'
    )


def _ensemble(folders: Sequence[str]) -> 'tuple[Classifier, Dataset, JsonDict]':
    from resnet_jax.classifier import Classifier, load_run
    from resnet_jax.evaluation.predictions import predict_split

    members = [load_run(folder, ema=FLAGS.value('ema')) for folder in folders]
    for folder, member in zip(folders, members, strict=True):
        if member.origin.fingerprint != members[0].origin.fingerprint:
            raise ConfigError(f'{folder} was trained on other data than {folders[0]}; expected runs on the same data set')
    ensemble = Classifier.ensemble(members)
    dataset = _dataset(folders[0], members[0])
    alone: list[JsonDict] = []
    for folder, member in zip(folders, members, strict=True):
        config = member.origin.config
        assert config is not None
        metrics = predict_split(member, dataset, config.eval_batch_size).describe()
        alone.append({'workdir': folder, 'accuracy': metrics['accuracy'], 'loss': metrics['loss']})
    return ensemble, dataset, {'members': alone}


def _weights(path: str) -> 'tuple[Classifier, Dataset, JsonDict]':
    from resnet_jax.classifier import Classifier
    from resnet_jax.data import load_dataset
    from resnet_jax.weights.published import find_weights, is_name

    kwargs = parse_assignments(FLAGS.value('model_kwargs'))
    published = None if Path(path).exists() or not is_name(path) else find_weights(path)
    name = FLAGS.value('dataset') or (published.dataset if published else 'cifar10')
    if published and name == 'imagenet':
        raise ConfigError(
            f'{path} were trained on ImageNet, which is no data set here; expected --dataset=NAME, such as your own'
        )
    dataset = load_dataset(name, data_dir=FLAGS.value('data_dir') or '', image_size=FLAGS.value('image_size'))
    classifier = Classifier.load(
        path,
        model=FLAGS.value('model'),
        image_shape=dataset.image_shape,
        normalization=FLAGS.value('normalization'),
        ema=FLAGS.value('ema'),
        **kwargs,
    )
    mean, std = classifier.mean or dataset.mean, classifier.std or dataset.std
    classifier = dataclasses.replace(classifier, mean=mean, std=std)
    more: JsonDict = {'weights': path, 'mean': list(mean), 'std': list(std)}
    if published and published.accuracy and name == published.dataset:
        more['published_accuracy'] = published.accuracy / 100
    return classifier, dataset, more
