"""Formats an evaluation as text."""

from collections.abc import Sequence

from resnet_jax.config_changes import describe_changes
from resnet_jax.runtime.untrusted import printable
from resnet_jax.typing import Json


def format_evaluation(title: str, class_names: Sequence[str], metrics: Json, more: Json) -> str:
    """Returns the table that the evaluate command prints.

    Args:
      metrics: as `Predictions.describe` returns them.
      more: optional entries: 'agreement' (`significance.compare_answers`), 'corruptions' (`evaluate_corruptions`), 'plots'
        (paths), 'cifar10c', 'cifar10_1' and 'cifar10h' (see `cifar_variants`), 'members' of an ensemble (each with 'workdir',
        'accuracy' and 'loss'), and 'published_accuracy' of weights by name.
    """
    class_names = [printable(name) for name in class_names]
    width = max(map(len, class_names))
    lines = [
        f'{title} test set, {metrics["count"]} images{_averaged(metrics["tta"])}',
        f'accuracy  {100 * metrics["accuracy"]:.2f} %',
        *([f'published {100 * more["published_accuracy"]:.2f} %'] if 'published_accuracy' in more else []),
        f'loss      {metrics["loss"]:.4f} (negative log-likelihood, nats)',
        'accuracy by class',
    ]
    counts = metrics['per_class_count']
    uneven = len(set(counts)) > 1
    for name, accuracy, count in zip(class_names, metrics['per_class_accuracy'], counts, strict=True):
        share = 'no example' if accuracy is None else f'{100 * accuracy:6.2f} %'
        lines.append(f'  {name:{width}}  {share}' + (f' of {count}' if uneven and count else ''))
    if uneven:
        lines.append(f'balanced accuracy {100 * metrics["balanced_accuracy"]:.2f} % (mean over the classes)')
    if metrics['top5_accuracy'] is not None:
        lines.append(f'top-5 accuracy  {100 * metrics["top5_accuracy"]:.2f} %')
    calibration = metrics['calibration']
    lines.append(
        f'mean confidence {100 * calibration["confidence"]:.2f} %, expected calibration error '
        f'{100 * calibration["ece"]:.2f} points ({len(calibration["bins"])} bins)'
    )
    for member in more.get('members', ()):
        lines.append(f'alone: accuracy {100 * member["accuracy"]:.2f} %, loss {member["loss"]:.4f}, {member["workdir"]}')
    if agreement := more.get('agreement'):
        lines += _agreement(agreement)
    if corruptions := more.get('corruptions'):
        lines += _corruptions(corruptions)
    lines += _published_sets(more)
    for kind, path in more.get('plots', {}).items():
        lines.append(f'{kind}: {path}')
    return '\n'.join(map(printable, lines))


def _averaged(tta: str) -> str:
    return '' if tta == 'none' else f', logits averaged over views ({tta})'


def _agreement(agreement: Json) -> list[str]:
    verdict = 'the difference is larger than chance' if agreement['significant'] else 'no difference beyond chance'
    configs = [f'  configs differ: {describe_changes(agreement["configs"])}'] if agreement.get('configs') else []
    return [
        f'compared with {agreement["with"]}{_averaged(agreement["with_tta"])}, of {agreement["count"]} images',
        f'  given the same class by both {agreement["same_class"]}',
        f'  right in both {agreement["both"]}, only here {agreement["only_first"]}, only there {agreement["only_second"]}, '
        f'in neither {agreement["neither"]}',
        f'  difference {100 * agreement["difference"]:+.2f} points, 95 % interval {100 * agreement["low"]:+.2f} to '
        f'{100 * agreement["high"]:+.2f} (paired bootstrap), exact McNemar p = {agreement["p"]:.2g}: {verdict}',
        '  The verdict (p < 0.05) is on this pair alone: on these two networks and these images, not on other seeds.',
        *configs,
    ]


def _published_sets(more: Json) -> list[str]:
    lines = []
    if metrics := more.get('cifar10c'):
        lines += _errors('CIFAR-10-C', metrics)
        lines.append(
            f'  CIFAR-10-C accuracy {100 * metrics["accuracy"]:.2f} %{_averaged(metrics["tta"])}: the mean over 15 corruptions '
            f"and 5 severities of {metrics['count']:,} images, RobustBench's figure for corruptions"
        )
        if metrics['mean_corruption_error_19'] is not None:
            lines.append(f'  with the four extra corruptions {100 * (1 - metrics["mean_corruption_error_19"]):.2f} %')
    for version, metrics in more.get('cifar10_1', {}).items():
        lines.append(
            f'CIFAR-10.1 {version} accuracy {100 * metrics["accuracy"]:.2f} % of {metrics["count"]:,} images, loss '
            f'{metrics["loss"]:.4f}{_averaged(metrics["tta"])}'
        )
    if metrics := more.get('cifar10h'):
        lines.append(
            f'CIFAR-10H, answers of people to {metrics["count"]:,} test images{_averaged(metrics["tta"])}: cross entropy '
            f'{metrics["cross_entropy"]:.4f}, KL divergence {metrics["kl_divergence"]:.4f} nats; the class that most people '
            f'name {100 * metrics["plurality_accuracy"]:.2f} %'
        )
    return lines


def _corruptions(corruptions: Json) -> list[str]:
    mean, clean = corruptions['mean_corruption_error'], corruptions['clean_error']
    lines = _errors('corrupted images', corruptions)
    lines.append(f'  mean corruption error {100 * mean:.2f} % (not normalised), clean {100 * clean:.2f} %')
    return lines


def _errors(images: str, corruptions: Json) -> list[str]:
    width = max(map(len, corruptions['errors']))
    lines = [f'error on {images}, in %: {"":{max(0, width - 17 - len(images))}}severity 1 to 5, mean']
    for name, errors in corruptions['errors'].items():
        cells = ' '.join(f'{100 * error:6.2f}' for error in [*errors, corruptions['corruption_errors'][name]])
        lines.append(f'  {name:{width}}  {cells}')
    return lines
