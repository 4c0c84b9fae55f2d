"""A run from the first step to the last: `train_and_evaluate`."""

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.classifier import Classifier, load_run
from resnet_jax.config import TrainConfig
from resnet_jax.data import Dataset, LazyDataset, Split
from resnet_jax.errors import DivergedError, OutOfMemoryError, ResourceError, UserError
from resnet_jax.report.page import write_run_report
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.log import report_result
from resnet_jax.runtime import console, distributed, failpoints
from resnet_jax.runtime.environment import check_deterministic
from resnet_jax.runtime.jax_settings import our_settings
from resnet_jax.runtime.signals import StopSignal
from resnet_jax.training.api import Callback, TrainingResult
from resnet_jax.training.checkpointing import RunCheckpoints
from resnet_jax.training.experiment import Experiment, create_experiment
from resnet_jax.training.finetune import begin, default_size, finetuning_config, load_weights, with_normalization
from resnet_jax.training.program import Program, TrainingProgram
from resnet_jax.training.trainer import Trainer
from resnet_jax.typing import Json

logger = logging.getLogger(__name__)


@our_settings()
def train_and_evaluate(
    config: TrainConfig | ConfigDict | Json,
    workdir: str | Path,
    *,
    extend: bool = False,
    allow_changes: bool = False,
    callbacks: Sequence[Callback] = (),
    dataset: Dataset | None = None,
    weights: Classifier | None = None,
    profile: bool = False,
    grace_seconds: float = math.inf,
) -> TrainingResult:
    """Trains a config in a run folder, or continues the run there.

    The result is that of the last epoch or, if `validation_size` is set, of the epoch with the best validation accuracy. The
    test set never selects an epoch. A finished run is not repeated. On return, the caller's logging, signal handlers and
    threads are as they were before.

    Args:
      extend: continue a run that has fewer epochs and otherwise the same config; the run then follows the longer schedule.
      allow_changes: continue with new values of fields that may change on request, such as the learning rate; the run folder
        records the changes and the plots mark them.
      callbacks: called in the given order during the run.
      dataset: the data set to train on; it replaces `config.dataset`, which is set to its name. See `data.load_dataset`. To
        continue the run, pass the same data set.
      weights: the network to start from, instead of `config.init_from`; see `finetune`.
      profile: write a trace of ten iterations to `workdir/profile`.
      grace_seconds: seconds after which a signal ends the process if nothing is unsaved and XLA does not return, as when it
        compiles.

    Raises:
      ConfigError, InputFileError, DivergedError, ResourceError, RunFolderInUseError, LostPeerError: see `resnet_jax.errors`.
      Interrupted: SIGINT, SIGTERM or SIGHUP was received; the state was saved.
    """
    checked = config if isinstance(config, TrainConfig) else TrainConfig.from_mapping(config)
    with contextlib.ExitStack() as stack:
        stack.callback(console.log_to_console())
        if checked.deterministic:
            check_deterministic()
        weights = weights or load_weights(checked, workdir)
        if dataset is None:
            options = data.LoadOptions.of(checked, default_size(checked, workdir, weights))
            source = data.find_dataset(checked.dataset, options)
        else:
            checked = checked.replace(dataset=dataset.name)
            source = LazyDataset.of(dataset)
        info, start = begin(checked, source.info, workdir, weights)
        experiment = create_experiment(checked, info, start=start)  # before the folder is created
        folder = RunFolder(workdir, checked, extend=extend, allow_changes=allow_changes)
        group = distributed.process_group(checked.to_dict(), folder.path, folder.newest_checkpoint)
        with StopSignal(grace_seconds) as stop, group, folder:
            distributed.assert_shared(folder.path / '.lock')
            return train_in_folder(
                experiment, source, folder, stop, callbacks, extend=extend, allow_changes=allow_changes, profile=profile
            )


def train_in_folder(
    experiment: Experiment,
    source: LazyDataset,
    folder: RunFolder,
    stop: StopSignal,
    callbacks: Sequence[Callback] = (),
    create_program: Callable[[Experiment, Split], Program] = TrainingProgram,
    *,
    extend: bool,
    allow_changes: bool,
    profile: bool = False,
) -> TrainingResult:
    """Trains in a locked folder, unless its run is finished; otherwise like `train_and_evaluate`.

    Args:
      create_program: makes the program that runs the training steps.
    """
    failpoints.reach('start')
    result = folder.read_result()
    if result is None:
        dataset = with_normalization(source.dataset, experiment.config, experiment.info)
        distributed.assert_equal('data set', dataset.describe())
        checkpoints = RunCheckpoints(experiment, dataset, folder, extend=extend, allow_changes=allow_changes)
        try:
            trainer = Trainer(experiment, dataset, folder, checkpoints, stop, callbacks, create_program, profile)
            result, classifier = trainer.train()
        except (DivergedError, OutOfMemoryError) as error:
            _leave_failed(folder, error)
            raise
    else:
        logger.info('%s is finished; nothing to do.', folder.path)
        if folder.primary and not (folder.path / 'report.html').exists():  # killed before the report was written
            write_run_report(folder.path)
        classifier = load_run(folder.path)
    report_result(result)
    return TrainingResult(result, folder.read_metrics(), classifier)


def _leave_failed(folder: RunFolder, error: UserError) -> None:
    """Writes failed.json, for an error that would recur with the same command, and the report so far."""
    if folder.primary:
        with contextlib.suppress(ResourceError):  # the original error is more informative
            folder.write_json('failed.json', {'exit_code': error.exit_code, 'reason': f'error: {error}'})
            write_run_report(folder.path)


def finetune(
    classifier: Classifier,
    dataset: str | Dataset,
    workdir: str | Path,
    *,
    config: TrainConfig | ConfigDict | Json | None = None,
    callbacks: Sequence[Callback] = (),
    **overrides: object,
) -> TrainingResult:
    """Trains a trained network on another data set, in a run folder; the same call continues an interrupted run.

    The network, its preprocessing and all weights that fit come from the classifier; the head is new if the number of classes
    differs. By default the recipe is that of the classifier's run (augmentation, optimizer, batch), or the default config if
    there is none, for 10 epochs with a tenth of its learning rates. docs/finetuning.md describes the most important fields.

    Args:
      dataset: a name for `load_dataset`, or a data set.
      config: a recipe; its model, data set and `init_from` are replaced.
      callbacks: see `train_and_evaluate`.
      **overrides: fields of the config, such as `freeze='backbone'` or `num_epochs=5`.

    Raises:
      ConfigError: the name of the classifier's model is unknown, or a field is unknown or out of range. For other errors see
        `train_and_evaluate`.
    """
    checked = finetuning_config(classifier, dataset, config, overrides)
    data_set = dataset if isinstance(dataset, Dataset) else None
    return train_and_evaluate(checked, workdir, callbacks=callbacks, dataset=data_set, weights=classifier)
