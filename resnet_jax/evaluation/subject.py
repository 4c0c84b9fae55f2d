"""What bin/evaluate.py evaluates, a run or weights from elsewhere, and all that it may say of it."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from resnet_jax.data import Dataset, load_dataset
from resnet_jax.evaluation.evaluator import check_network_fits
from resnet_jax.evaluation.predictions import Predictions, check_same_examples, predictor
from resnet_jax.evaluation.record import write_json, write_record
from resnet_jax.evaluation.robustness import evaluate_corruptions
from resnet_jax.evaluation.run import TrainedRun
from resnet_jax.report.plots import plot_confusion, plot_corruptions
from resnet_jax.significance import compare_answers

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, its variables ('params' and 'batch_stats'), and the data set that it is to be tested on.

    Attributes:
      mean, std: of the channels, as the network was trained with.
      folder: the run folder that is told what is found, or None.
      tta: what the logits are averaged over, see `data.augment.tta_logits`.
    """

    title: str
    model: nn.Module
    variables: Any
    dataset: Dataset
    mean: Sequence[float]
    std: Sequence[float]
    dtype: Any = jnp.float32
    batch_size: int = 1000
    folder: Path | None = None
    tta: str = 'none'

    def predictor(self) -> Callable[[np.ndarray], np.ndarray]:
        """See `predictions.predictor`.

        Raises:
          ConfigError: network and data set do not go together.
        """
        check_network_fits(self.model, self.dataset, self.mean, self.std)
        return predictor(
            self.model,
            self.variables,
            mean=self.mean,
            std=self.std,
            dtype=self.dtype,
            batch_size=self.batch_size,
            tta=self.tta,
        )


def subject_of_run(run: TrainedRun, folder: str | Path | None, data_dir: str | None = None, tta: str | None = None) -> Subject:
    """Returns a trained run and its data set.

    Args:
      folder: the run folder, if its files are to say what is found. With other views than the run's own they do not: they
        would contradict its result.
      data_dir: where the data set is now, if not where the run's config says.
      tta: see `data.augment.tta_logits`; None: as the run's config says.

    Raises:
      InputFileError: the data set cannot be had.
    """
    config = run.config
    dataset = load_dataset(config['dataset'], data_dir or config['data_dir'] or None, config['data_archive'] or None)
    if dataset.fingerprint != run.dataset['fingerprint']:
        logger.warning('The data are not those that the run was trained on: other files of %s.', dataset.name)
        folder = None
    tta = tta or run.tta
    if tta != run.tta:
        folder = None
    return Subject(
        f'{config["model"]} after {run.step} iterations, {run.dataset["name"]}',
        run.model,
        run.variables,
        dataset,
        run.dataset['mean'],
        run.dataset['std'],
        jnp.dtype(config['dtype']),
        config['eval_batch_size'],
        Path(folder) if folder else None,
        tta,
    )


def evaluate_subject(
    subject: Subject, *, other: Predictions | None = None, other_name: str | None = None, corruptions: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluates on every example of the test set, and writes the files and plots of the run folder if there is one.

    Args:
      other: another network's answers to compare with.

    Returns:
      `metrics.describe`, as JSON has it, and besides, each if asked for: 'agreement' (see `statistics.compare_answers`,
      and 'same_class', how many images both give the same class, right or wrong),
      'corruptions' (see `robustness.evaluate_corruptions`), 'plots' ({what: path}).

    Raises:
      ConfigError: network and data set, or the two networks' test sets, do not go together.
    """
    answer, dataset, found = subject.predictor(), subject.dataset, {}
    predictions = Predictions(answer(dataset.test.image), dataset.test.label, dataset.fingerprint, subject.tta)
    metrics = predictions.describe()
    if other is not None:
        check_same_examples(predictions, other)
        compared = compare_answers(predictions.correct, other.correct)
        same = int((predictions.log_probabilities.argmax(axis=1) == other.log_probabilities.argmax(axis=1)).sum())
        views = other.tta
        found['agreement'] = {'with': other_name, 'with_tta': views, 'same_class': same, **compared}
    if corruptions:

        def progress(done, total):
            logger.info('Corruptions: %d of %d', done, total)

        found['corruptions'] = {
            **evaluate_corruptions(answer, dataset.test, progress=progress),
            'tta': subject.tta,
        }
    if subject.folder:
        try:
            found['plots'] = _keep(subject.folder, subject, predictions, metrics, found)
        except OSError as error:  # somebody else's run folder, say
            logger.warning('The files of the run folder could not be written: %s', error)
    return {**metrics, 'confusion': metrics['confusion'].tolist()}, found


def _keep(folder: Path, subject: Subject, predictions: Predictions, metrics: Any, found: Any) -> dict[str, str]:
    names = subject.dataset.class_names
    plots = {'confusion matrix': plot_confusion(metrics['confusion'], names, folder / 'plots' / 'confusion.png')}
    write_record(folder, predictions, subject.dataset, subject.variables)
    if 'corruptions' in found:
        write_json(folder / 'corruptions.json', found['corruptions'])
        plots['corruptions'] = plot_corruptions(found['corruptions'], folder / 'plots' / 'corruptions.png')
    return {what: str(path) for what, path in plots.items()}
