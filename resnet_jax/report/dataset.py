"""The report's section on the data: a description, counts by class, and a sheet of images."""

from collections.abc import Mapping

from markupsafe import Markup

from resnet_jax.report.markup import Runs, Section, each, number, parts
from resnet_jax.report.pictures import data_uri
from resnet_jax.runs.reader import RunReader

_LISTED = 100  # number of listed classes


def section(runs: Runs) -> Section | None:
    """Returns the section; None if no run has recorded its data."""

    def of_run(run: RunReader) -> str:
        facts = run.evaluation.get('data')
        if not isinstance(facts, Mapping):
            return ''
        counts, names = facts['counts'], facts['class_names']
        rows = [
            ['images', *(number(sum(count)) for count in counts.values())],
            *([name, *(number(count[i]) for count in counts.values())] for i, name in enumerate(names[:_LISTED])),
        ]
        if len(names) > _LISTED:
            rows.append([f'and {len(names) - _LISTED:,} classes more', *('' for _ in counts)])
        twins = facts['duplicates']
        lines = [
            f'{facts["name"]}: {" x ".join(map(str, facts["image_shape"]))}, mean {_numbers(facts["mean"])}, std '
            f'{_numbers(facts["std"])}',
            *facts['notes'],
        ]
        if twins is not None:
            also = f', {twins["with_another_label"]:,} with another label' if twins['with_another_label'] else ''
            lines.insert(1, f'test images that are in the training set too, to the pixel: {twins["test_in_train"]:,}{also}')
        content = Markup('<p>') + parts.lines(lines) + Markup('</p>') + parts.table(['', *counts], rows)
        if run.samples is not None:
            content += parts.picture(data_uri(run.samples), 'training images, a row for each class')
        return content

    if not any(isinstance(run.evaluation.get('data'), Mapping) for run in runs):
        return None
    caption = 'Images of each class, and the first training images of the first classes, a row for each, as they were resized.'
    return Section('data', 'Data', caption, each(runs, of_run))


def _numbers(values: list[float]) -> str:
    return ' '.join(f'{value:.3f}' for value in values)
