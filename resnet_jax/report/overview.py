"""Report sections on whole runs: study entries, summary, differences, configs, versions and hardware."""

import itertools

from markupsafe import Markup

from resnet_jax.report.markup import Runs, Section, number, p_value, parts, views
from resnet_jax.report.results import NOISE, ONE_SEED
from resnet_jax.runs.reader import RunReader
from resnet_jax.significance import compare_answers, holm, wilson_interval
from resnet_jax.typing import Json


def study(results: Json) -> Section:
    """Returns the section that compares each entry of a study with its baseline."""
    rows = []
    expected = any(entry.get('expected') for entry in results['entries'].values())
    for name, entry in results['entries'].items():
        accuracy = entry['accuracy']
        interval = '-'
        if accuracy and accuracy['low'] is not None:
            interval = (
                f'{100 * max(accuracy["low"], 0):.2f} to {100 * min(accuracy["high"], 1):.2f} %, sd {100 * accuracy["sd"]:.2f}'
            )
        status = parts.lines([entry['status'], *dict.fromkeys(map(reason, entry['failed'].values()))])
        marks = ''.join({views(run): None for run in entry['runs'].values()})
        mean = f'{100 * accuracy["mean"]:.2f} % (n = {accuracy["n"]}){marks}' if accuracy else '-'
        row = [name, mean, difference(results['comparisons'].get(name)), interval, training(entry['config']), status]
        if expected:
            row.insert(2, _expected(entry.get('expected')))
        rows.append(row)
    header = ['entry', 'test accuracy', 'difference in points', '95 % interval over seeds', 'training', 'status']
    if expected:
        header.insert(2, 'published')
    caption = (
        'Mean test accuracy over seeds, of the last epoch or of the best on a validation split where there is one, with its t '
        'interval. The difference is to the baseline, seed by seed, with its interval; one is called better or worse only '
        'where the t test over seeds, corrected for all entries (Holm), has p below 0.05, and the choice of test images does '
        'not account for it either. The p of each seed is that of the exact McNemar test on the same test images, corrected '
        'for all pairs of this study (Holm): it speaks of those two trained networks, not of what another seed would give.'
    )
    if results['looks'] > 1:
        caption += (
            f' An entry gets no more seeds once it is decided, which is tested up to {results["looks"]} times: better or worse '
            f'then needs a p below 0.05 / {results["looks"]}.'
        )
    return Section('study', 'Entries', caption, parts.table(header, rows, 'text entries'))


def ranking(results: Json) -> Section | None:
    """Returns the section that ranks a study's entries, if there are two or more with results."""
    ranked = results['ranking']
    if len(ranked) < 2:
        return None
    rows = []
    for place, row in enumerate(ranked, 1):
        interval = f'{100 * max(row["low"], 0):.2f} to {100 * min(row["high"], 1):.2f} %' if row['low'] is not None else '-'
        behind = '-' if row['behind'] is None else f'{100 * row["behind"]:.2f}'
        told = (
            '-'
            if place == 1
            else f'{"yes" if row["apart"] else "no"}{"" if row["p"] is None else ", p = " + p_value(row["p"])}'
        )
        rows.append([str(place), row['entry'], f'{100 * row["accuracy"]:.2f} % (n = {row["n"]})', interval, behind, told])
    alike = [row['entry'] for row in ranked[1:] if not row['apart']]
    caption = (
        f'{among(results)}{ranked[0]["entry"]} has the highest mean accuracy. '
        f'{"The seeds cannot tell it from " + ", ".join(alike) if alike else "All others are worse"}. '
        'As it was chosen by its result, each p (paired t test over seeds) is corrected for all pairs of entries (Bonferroni).'
    )
    header = ['place', 'entry', 'test accuracy', '95 % interval over seeds', 'points behind', 'worse than the first']
    return Section('ranking', 'Ranking', caption, parts.table(header, rows, 'text'))


def among(results: Json) -> str:
    """Returns the beginning of a sentence on the ranking if some entries have another baseline; otherwise ''."""
    ranked = {row['entry'] for row in results['ranking']}
    complete = all(name in ranked for name, entry in results['entries'].items() if entry['accuracy'])
    return '' if complete else f'Of the entries that are compared with {results["baseline"]}, '


def reason(text: str) -> str:
    """Returns the reason in a run's error message, without the advice that follows it."""
    return text.removeprefix('error: ').partition(';')[0]


def training(config: Json) -> str:
    """Returns e.g. '3 epochs of 25,600 images, batch 128'."""
    if not config.get('num_epochs'):
        return '-'
    images = f'{config["train_size"]:,} images' if config.get('train_size') else 'all images'
    return f'{config["num_epochs"]} epoch{"s" if config["num_epochs"] > 1 else ""} of {images}, batch {config["batch_size"]}'


def _expected(published: Json | None) -> str:
    return parts.lines([f'{published["accuracy"]:.2f} %'], published['source']) if published else '-'


def difference(compared: Json | None) -> str:
    """Returns a comparison in words that claim no more than the data show."""
    if not compared:
        return '-'
    text = f'{100 * compared["mean"]:+.2f} to {compared["baseline"]}'
    if compared['low'] is not None:
        text += f' ({100 * max(compared["low"], -1):+.2f} to {100 * min(compared["high"], 1):+.2f})'
    text += f': {compared["verdict"]}'
    pairs = compared['pairs']
    apart = [pair['p_holm'] < 0.05 for pair in pairs.values()]
    if compared['verdict'] in (NOISE, ONE_SEED) and apart and all(apart):
        signs = {pair['difference'] > 0 for pair in pairs.values()}
        if len(signs) == 1:
            way = 'better' if signs == {True} else 'worse'
            seeds = 'this seed' if len(pairs) == 1 else f'all {len(pairs)} seeds'
            text += f'; the networks trained with {seeds} are {way} on these test images, but so few seeds settle no recipe'
    values = ', '.join(p_value(pair['p_holm']) for pair in pairs.values())
    return parts.lines([text], f'McNemar, by seed: p = {values}' if pairs else '')


def headline(runs: Runs) -> str:
    """Returns the result of a single run, for the top of the page; '' for several runs, which have a table."""
    if len(runs) > 1:
        return ''
    (run,) = runs
    if not run.result:
        evaluated = [rows[-1] for split in ('validation', 'test') if (rows := run.rows(split, 'accuracy'))]
        so_far = [f'{100 * value:.2f} % after iteration {step:,}' for step, value in evaluated[:1]]
        why = [str(run.failed['reason'])] if run.failed.get('reason') else []
        return parts.headline('failed' if run.failed else 'not finished', [*so_far, *why])
    selected = 'the best on validation' if run.result.get('selected') == 'validation' else 'the last'
    name = run.evaluation.get('dataset') or run.config.get('dataset', '')
    facts = [
        f'test accuracy after epoch {number(run.result.get("epoch"))}, {selected}{views(run.result)}',
        f'95 % interval {_wilson(run.result)}',
        f'{run.config.get("model", "")} on {name}: {number(run.result["count"])} test images',
    ]
    return parts.headline(f'{100 * run.result["accuracy"]:.2f} %', facts)


def _wilson(result: Json) -> str:
    share = wilson_interval(round(result['accuracy'] * result['count']), result['count'])
    return f'{100 * (share.low or 0):.2f} to {100 * (share.high or 0):.2f} %'


def summary(runs: Runs) -> Section:
    """Returns the section that compares the runs in a table."""
    header = ['run', 'test accuracy', '95 % interval', 'model', 'parameters', 'multiply-adds', 'memory', 'epoch', 'time']
    caption = (
        'The interval (Wilson) is what the choice of test images leaves open about each trained network. What another seed '
        'would give is not in it. Time includes evaluation. Images/s is of training alone: the median over the rows of the '
        'log, each of which has the moving average of the iterations before it; ms per iteration is the batch divided by it. '
        'Memory is estimated before training: parameters, state of the optimizer, and the scratch space that the compiled step '
        'asks for.'
    )
    if any(views(run.result) for run in runs):
        caption += (
            ' Views averaged: the logits are the mean over several views of each test image, here and in every figure below '
            'of that run; compare it only with the like.'
        )
    rows = [_summary(run) for run in runs]
    return Section('summary', 'Summary', caption, parts.table([*header, 'images/s', 'ms per iteration'], rows))


def _summary(run: RunReader) -> list[str]:
    result = run.result
    accuracy, interval = 'failed' if run.failed else 'not finished', '-'
    if result:
        accuracy, interval = f'{100 * result["accuracy"]:.2f} %{views(result)}', _wilson(result)
    needed = sum(run.memory.get(key) or 0 for key in ('state_bytes', 'scratch_bytes'))
    return [
        run.name,
        accuracy,
        interval,
        str(run.config.get('model', '-')),
        number(run.model.get('parameters')),
        number(run.model.get('multiply_adds')),
        number(needed / 2**20, '{:,.0f} MiB') if needed else '-',
        number(result.get('epoch')),
        number(result.get('seconds'), '{:,.0f} s'),
        number(run.images_per_second, '{:,.0f}'),
        number(run.iteration_seconds and 1000 * run.iteration_seconds, '{:,.1f}'),
    ]


def agreement(runs: Runs) -> Section | None:
    """Returns the section on differences between each pair of up to eight runs."""
    known = [(run, run.correct) for run in runs[:8]]
    pairs, apart = [], 0
    for (a, right), (b, other) in itertools.combinations(known, 2):
        if right is not None and other is not None and a.fingerprint == b.fingerprint and right.shape == other.shape:
            title = ' - '.join(run.name + views(run.result) for run in (a, b))
            pairs.append((title, compare_answers(right, other)))
        else:
            apart += 1
    if len(runs) < 2:
        return None
    rows = []
    for (names, pair), p in zip(pairs, holm([pair['p'] for _, pair in pairs]), strict=True):
        verdict = 'larger than chance' if pair['significant'] else 'no difference beyond chance'
        if pair['significant'] and p >= 0.05:
            verdict += f'; not when corrected for all {len(pairs)} pairs'
        interval = f'{100 * pair["low"]:+.2f} to {100 * pair["high"]:+.2f}'
        rows.append([names, f'{100 * pair["difference"]:+.2f}', interval, f'{pair["p"]:.2g}', f'{p:.2g}', verdict])
    caption = (
        'Differences in points on the same test images, with a paired bootstrap interval and the exact McNemar test, whose p '
        'is also given corrected for all pairs here (Holm). The verdict is on each pair alone (p < 0.05). They '
        'compare trained networks; whether a recipe is better takes several seeds.'
    )
    if len(runs) > 8:
        caption += f' The first 8 of {len(runs)} runs.'
    if apart:
        caption += f' {apart} pairs are left out: of other test images, or without the answers of both.'
    content = parts.table(['runs', 'points', '95 % interval', 'p', 'p, corrected', ''], rows) if rows else ''
    return Section('agreement', 'Differences', caption, content)


def configs(runs: Runs) -> Section:
    """Returns the section on the fields of the configs."""
    same, differing = [], []
    for field in dict.fromkeys(itertools.chain.from_iterable(run.config for run in runs)):
        values = [str(run.config.get(field, '-')) for run in runs]
        if len(set(values)) > 1:
            differing.append([field, *values])
        else:
            same.append([field, values[0]])
    content = Markup()
    if differing:
        content += parts.table(['field', *(run.name for run in runs)], differing, 'text', range(len(differing)))
    if same:
        shared = parts.table(['field', 'value'], same, 'text')
        content += parts.folded(f'{len(same)} fields that are the same in all runs', shared) if len(runs) > 1 else shared
    changed = [[run.name, number(change.step), change.describe()] for run in runs for change in run.changes]
    if changed:
        content += parts.table(['changed while training', 'after iteration', 'fields'], changed, 'text')
    caption = 'Fields that differ between the runs are marked.' if len(runs) > 1 else 'What the run was made from.'
    return Section('configs', 'Configs', caption, content)


def environments(runs: Runs) -> Section:
    """Returns the section on versions and hardware."""
    machines: dict[str, list[str]] = {}
    for run in runs:
        facts = dict(run.environment)
        facts |= facts.pop('packages', {})
        if facts:
            text = ', '.join(f'{key} {value}' for key, value in facts.items())
            machines.setdefault(text, []).append(run.name)
    rows = [[', '.join(names) if len(machines) > 1 else 'all runs', text] for text, names in machines.items()]
    return Section(
        'environment', 'Versions and hardware', 'What made the runs.', parts.table(['run', ''], rows, 'text') if rows else ''
    )
