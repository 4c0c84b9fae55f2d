import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sampling import sample

from resnet_jax.report import plots
from resnet_jax.report.optional import optional

ROWS = [
    {'step': 5, 'split': 'train', 'loss': 2.0, 'accuracy': 0.25, 'learning_rate': 0.1},
    {'step': 6, 'split': 'test', 'loss': 1.5, 'accuracy': 0.5, 'ema_loss': 1.75, 'ema_accuracy': 0.375},
    {'step': 10, 'split': 'train', 'loss': 1.0, 'accuracy': 0.75, 'learning_rate': 0.05},
    {'step': 12, 'split': 'test', 'loss': 1.25, 'accuracy': 0.625, 'ema_loss': 1.0, 'ema_accuracy': 0.5},
]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    collected, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: collected.append(figure) or save(figure, path))
    return collected


def write(workdir, rows):
    workdir.mkdir(exist_ok=True)
    (workdir / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return workdir


def series(axis):
    """Returns the lines of a panel: {label: points}."""
    return {line.get_label(): [tuple(map(float, point)) for point in line.get_xydata()] for line in axis.lines}


def is_png(path):
    return path.read_bytes().startswith(b'\x89PNG\r\n\x1a\n')


def test_the_training_plot_says_that_views_were_averaged(tmp_path, figures):
    rows = [{**row, 'tta': 'mirror'} if row['split'] == 'test' else row for row in ROWS]
    plots.plot_training(write(tmp_path, rows))
    labels = ['train', 'test, views averaged (mirror)', 'test, averaged, views averaged (mirror)']
    assert list(series(figures[0].axes[0])) == labels


def test_training_plot_holds_every_series(tmp_path, figures):
    path = plots.plot_training(write(tmp_path / 'resnet8', ROWS))
    assert path == tmp_path / 'resnet8' / 'plots' / 'training.png' and is_png(path)
    loss, accuracy, rate = figures[0].axes
    assert series(loss) == {
        'train': [(5, 2.0), (10, 1.0)],
        'test': [(6, 1.5), (12, 1.25)],
        'test, averaged': [(6, 1.75), (12, 1.0)],
    }
    assert series(accuracy) == {  # per cent
        'train': [(5, 25.0), (10, 75.0)],
        'test': [(6, 50.0), (12, 62.5)],
        'test, averaged': [(6, 37.5), (12, 50.0)],
    }
    assert list(series(rate).values()) == [[(5, 0.1), (10, 0.05)]]
    assert [axis.get_ylabel() for axis in figures[0].axes] == ['loss (cross entropy)', 'accuracy (%)', 'learning rate']
    assert {axis.get_xlabel() for axis in figures[0].axes} == {'iteration'}
    assert {text.get_text() for text in loss.get_legend().get_texts()} == set(series(loss))
    assert figures[0].get_suptitle() == 'resnet8'


def test_train_validation_and_test_have_a_colour_each(tmp_path, figures):
    plots.plot_training(write(tmp_path, [*ROWS, {**ROWS[1], 'split': 'validation'}]))
    lines = {line.get_label(): line.get_color() for line in figures[0].axes[0].lines}
    assert set(lines) == {'train', 'validation', 'validation, averaged', 'test', 'test, averaged'}
    assert len({lines['train'], lines['validation'], lines['test']}) == 3
    assert lines['test'] == lines['test, averaged']


@pytest.mark.parametrize('rows', [[], ROWS[:1], ROWS[1:2]])
def test_training_plot_of_a_run_that_has_hardly_begun(tmp_path, figures, rows):
    assert is_png(plots.plot_training(write(tmp_path, rows)))
    assert sum(len(axis.lines) for axis in figures[0].axes) == (3 if rows == ROWS[:1] else 4 if rows else 0)


def test_training_plot_replaces_the_one_before(tmp_path, figures):
    before = plots.plot_training(write(tmp_path, ROWS[:2])).read_bytes()
    assert plots.plot_training(write(tmp_path, ROWS)).read_bytes() != before
    assert [path.name for path in (tmp_path / 'plots').iterdir()] == ['training.png']


def test_confusion_plot_holds_shares_of_each_true_class(tmp_path, figures):
    confusion = np.array([[30, 10, 0], [0, 0, 0], [1, 1, 2]])  # no example of the second class
    path = plots.plot_confusion(confusion, ['cat', 'dog', 'frog'], tmp_path / 'new' / 'confusion.png')
    assert path == tmp_path / 'new' / 'confusion.png' and is_png(path)
    axis = figures[0].axes[0]
    (image,) = axis.images
    np.testing.assert_allclose(image.get_array(), [[75, 25, 0], [0, 0, 0], [25, 25, 50]])
    assert image.get_clim() == (0, 100)
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ['cat', 'dog', 'frog']
    assert (axis.get_xlabel(), axis.get_ylabel()) == ('predicted class', 'true class')
    numbers = {(*map(int, text.get_position()), text.get_text()) for text in axis.texts}  # column, row
    assert numbers == {(0, 0, '75'), (1, 0, '25'), (0, 2, '25'), (1, 2, '25'), (2, 2, '50')}


def test_confusion_plot_of_many_classes_leaves_out_what_would_run_together(tmp_path, figures):
    names = [f'class {i}' for i in range(100)]
    assert is_png(plots.plot_confusion(np.eye(100, dtype=int), names, tmp_path / 'confusion.png'))
    axis = figures[0].axes[0]
    assert not axis.texts
    assert not {tick.get_text() for tick in axis.get_xticklabels()} & set(names)
    np.testing.assert_array_equal(axis.images[0].get_array(), 100 * np.eye(100))


def test_a_change_of_the_config_is_drawn_where_it_was_made(tmp_path, figures):
    workdir = write(tmp_path / 'run', ROWS)
    (workdir / 'changes.json').write_text(json.dumps([{'step': 7, 'fields': {'learning_rate': [0.1, 0.05]}}]))
    plots.plot_training(workdir)
    for axis in figures[0].axes:
        assert [7, 7] in [list(line.get_xdata()) for line in axis.lines]
    assert [text.get_text().strip() for text in figures[0].axes[2].texts] == ['learning_rate: 0.1 -> 0.05']


DRAW = """
import os, sys
from pathlib import Path
import numpy as np
from resnet_jax.report.figures import Figure, save
from resnet_jax.report.plots import plot_confusion

plot_confusion(np.eye(2, dtype=int), ['a', 'b'], Path(sys.argv[1]))
figure = Figure()
figure.subplots().plot([1, 2])
save(figure, Path(sys.argv[1]).with_suffix('.svg'))
print(os.environ['MPLBACKEND'])
"""


@pytest.mark.parametrize(
    'backend', sample(['module://matplotlib_inline.backend_nowhere', 'nonsense', 'qtagg', 'module://os'], 2)
)
def test_any_backend_that_the_environment_names_will_do(backend, tmp_path):
    environment = {**os.environ, 'MPLBACKEND': backend}
    command = [sys.executable, '-c', DRAW, tmp_path / 'a.png']
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f'{backend}\n'), done.stderr
    assert is_png(tmp_path / 'a.png') and '<svg' in (tmp_path / 'a.svg').read_text()


def draw(folder):
    """Draws in a process with the matplotlibrc in a folder, if there is one, and returns the picture."""
    done = subprocess.run(
        [
            sys.executable,
            '-W',
            'error',
            '-W',
            'ignore::DeprecationWarning',
            '-c',
            DRAW.partition('figure = ')[0],
            folder / 'a.png',
        ],
        env={**os.environ, 'MPLBACKEND': 'agg', 'MATPLOTLIBRC': str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return (folder / 'a.png').read_bytes()


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return draw(tmp_path_factory.mktemp('plain'))


@pytest.mark.parametrize(
    'style',
    [
        'text.usetex: True',
        'savefig.bbox: tight\nsavefig.pad_inches: 1e9',
        'font.size: 1e9\nfigure.dpi: -1',
        'axes.formatter.use_mathtext: True\ntext.parse_math: True\nfigure.constrained_layout.h_pad: 1e9',
    ],
)
def test_plots_do_not_depend_on_the_style_of_the_user(style, tmp_path, plain):
    (tmp_path / 'matplotlibrc').write_text(style + '\n')
    assert draw(tmp_path) == plain


@pytest.mark.parametrize('backend', [{}, {'MPLBACKEND': 'agg'}])
def test_a_matplotlibrc_that_is_no_text_is_one_error(backend, tmp_path):
    (tmp_path / 'matplotlibrc').write_bytes(b'\xff\xfe\x00')
    environment = {key: value for key, value in os.environ.items() if key != 'MPLBACKEND'}
    program = """
from resnet_jax.errors import ConfigError
try:
    import resnet_jax.report.figures
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, '-c', program],
        env={**environment, **backend, 'MATPLOTLIBRC': str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, 'correct or delete it' in done.stdout) == (0, True), done.stderr


def test_names_are_shown_as_they_are_and_never_read_as_formulas(tmp_path, figures):
    path = plots.plot_confusion(np.eye(2, dtype=int), [r'$\nothing$', '$'], tmp_path / 'confusion.png')
    assert is_png(path) and is_png(plots.plot_training(write(tmp_path / r'run $\nothing$', ROWS)))


def test_control_characters_in_names_reach_no_terminal(tmp_path, capfd, recwarn):
    """matplotlib warns of each character that the font lacks, with the character."""
    names = ['\x1b]0;title\x07', 'a\r\nb', '\udcff', '\u202e', '\u732b']
    assert is_png(plots.plot_confusion(np.eye(5, dtype=int), names, tmp_path / 'confusion.png'))
    assert is_png(plots.plot_training(write(tmp_path / 'run\x1b[2J\udcff', ROWS)))
    assert not [*recwarn] and capfd.readouterr().err == ''


def test_what_goes_wrong_in_a_plot_is_a_warning(caplog):
    for error in (ImportError('no module named PIL'), RuntimeError('latex\ncould not be found'), OSError(28, 'No space')):
        with optional('The plot could not be drawn'):
            raise error
    assert [record.getMessage() for record in caplog.records] == [
        'The plot could not be drawn: ImportError: no module named PIL',
        'The plot could not be drawn: RuntimeError: latex could not be found',
        'The plot could not be drawn: [Errno 28] No space',
    ]
    with pytest.raises(KeyboardInterrupt), optional('The plot could not be drawn'):
        raise KeyboardInterrupt
