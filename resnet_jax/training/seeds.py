"""Trains several seeds of one config; on a GPU in one program, because one small network leaves most of the GPU idle."""

import functools
import logging
import math
import operator
import threading
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.config import TrainConfig
from resnet_jax.config_checks import check_num_seeds
from resnet_jax.data import LazyDataset, Split
from resnet_jax.data.order import epoch_order
from resnet_jax.errors import ConfigError, DivergedError, Interrupted
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runtime import console, memory
from resnet_jax.runtime.devices import compile_parallel, device_positions, replicate
from resnet_jax.runtime.environment import check_deterministic
from resnet_jax.runtime.jax_settings import our_settings
from resnet_jax.runtime.signals import StopSignal
from resnet_jax.training.api import TrainingResult
from resnet_jax.training.experiment import Experiment, create_experiment
from resnet_jax.training.finetune import begin
from resnet_jax.training.loading import device_data, seed_key
from resnet_jax.training.loop import train_and_evaluate, train_in_folder
from resnet_jax.training.program import map_over_devices, steps_function
from resnet_jax.training.state import TrainState
from resnet_jax.typing import Json, PyTree

logger = logging.getLogger(__name__)

Metrics = list[dict[str, np.ndarray]]


def train_seeds(
    config: TrainConfig | ConfigDict | Json,
    workdir: str | Path,
    count: int,
    *,
    extend: bool = False,
    allow_changes: bool = False,
    together: bool | None = None,
    grace_seconds: float = math.inf,
) -> list[TrainingResult]:
    """Trains a config with the seeds `config.seed`, `config.seed + 1`, ..., each in its own run folder `workdir/seed<seed>`.

    Each run equals a run of `train_and_evaluate`; if the seeds are trained together, up to rounding. Folders may contain
    finished runs, and runs that stopped at different steps.

    Args:
      count: number of seeds.
      extend, allow_changes, grace_seconds: see `train_and_evaluate`.
      together: train all in one program, with `jax.vmap`; by default on a GPU or TPU. On a CPU it is faster to train one seed
        after another: `benchmark --seeds=4` measures both.

    Raises:
      ConfigError: `together` is True and there are several processes, or the config has divergence_retries, unfreeze_epochs,
        decode='always', or a validation_size, which selects other images for each seed. Otherwise see `train_and_evaluate`.
      DivergedError: a run diverged; raised when the others have ended.
    """
    first = config if isinstance(config, TrainConfig) else TrainConfig.from_mapping(config)
    check_num_seeds(count)
    configs = [first.replace(seed=first.seed + i) for i in range(count)]
    folders = [Path(workdir, f'seed{checked.seed}') for checked in configs]
    obstacle = next((name for name in ('validation_size', 'divergence_retries', 'unfreeze_epochs') if getattr(first, name)), '')
    if first.decode == 'always':
        obstacle = 'decode=always'
    if jax.process_count() > 1:
        obstacle = 'num_processes'
    if together and obstacle:
        raise ConfigError(f'seeds cannot be trained together with {obstacle}; expected it unset, or together=False')
    if together is None:
        together = jax.default_backend() != 'cpu' and not obstacle
    if not together or count == 1:
        return _train_in_turn(configs, folders, extend=extend, allow_changes=allow_changes, grace_seconds=grace_seconds)
    return _train_together(configs, folders, extend=extend, allow_changes=allow_changes, grace_seconds=grace_seconds)


def _train_in_turn(
    configs: Sequence[TrainConfig], folders: Sequence[Path], *, extend: bool, allow_changes: bool, grace_seconds: float
) -> list[TrainingResult]:
    results, diverged = [], None
    for config, path in zip(configs, folders, strict=True):
        try:
            result = train_and_evaluate(config, path, extend=extend, allow_changes=allow_changes, grace_seconds=grace_seconds)
            results.append(result)
        except DivergedError as error:
            diverged = diverged or error
    if diverged:
        raise diverged
    return results


@our_settings()
def _train_together(
    configs: Sequence[TrainConfig], folders: Sequence[Path], *, extend: bool, allow_changes: bool, grace_seconds: float
) -> list[TrainingResult]:
    undo = console.log_to_console()
    try:
        first = configs[0]
        if first.deterministic:
            check_deterministic()
        source = data.find_dataset(first.dataset, data.LoadOptions.of(first))
        experiment = create_experiment(first, source.info)  # for its sizes; each member creates another
        state = jax.eval_shape(experiment.create_state)
        several = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(configs), *leaf.shape), leaf.dtype), state)
        memory.check_state_fits(several, f'{len(configs)} times {first.model}')
        logger.info('Training %d seeds of %s in one program.', len(configs), first.model)
        with StopSignal(grace_seconds) as stop:
            team = _Team(configs, source, stop, extend=extend, allow_changes=allow_changes)
            return team.train(folders)
    finally:
        undo()


class _Team:
    """Runs one thread per seed, one at a time, and batches their steps."""

    def __init__(
        self, configs: Sequence[TrainConfig], source: LazyDataset, stop: StopSignal, *, extend: bool, allow_changes: bool
    ):
        self._configs, self._source, self._stop = configs, source, stop
        self._options = {'extend': extend, 'allow_changes': allow_changes}
        self._turn = threading.Condition()  # held by the thread that runs
        self._active = set(range(len(configs)))
        self._requests: dict[int, tuple[TrainState, int, int]] = {}
        self._answers: dict[int, tuple[TrainState, Metrics] | BaseException] = {}
        self._program: SeedsProgram | None = None

    def train(self, folders: Sequence[Path]) -> list[TrainingResult]:
        results: dict[int, TrainingResult | BaseException] = {}

        def run(member: int) -> None:
            with self._turn:
                try:
                    results[member] = self._train(member, folders[member])
                except BaseException as error:  # raised again in the calling thread
                    results[member] = error
                finally:
                    self._active.discard(member)
                    self._turn.notify_all()

        threads = [
            threading.Thread(target=run, args=(i,), name=f'seed {config.seed}') for i, config in enumerate(self._configs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                try:
                    thread.join()
                except Interrupted as error:  # the runs see the signal when their steps are done
                    self._stop.number = error.number
        ordered = [results[i] for i in range(len(threads))]
        for result in ordered:
            if isinstance(result, BaseException):
                raise result
        return ordered  # type: ignore[return-value]

    @our_settings()  # settings belong to a thread
    def _train(self, member: int, path: Path) -> TrainingResult:
        config = self._configs[member]
        info, start = begin(config, self._source.info, path)
        experiment = create_experiment(config, info, start=start)
        create_program = functools.partial(_Member, self, member)
        with RunFolder(path, config, **self._options) as folder:
            return train_in_folder(experiment, self._source, folder, self._stop, (), create_program, **self._options)

    def compile(self, experiment: Experiment, train: Split, state: TrainState) -> jax.stages.Compiled | jax.stages.Wrapped:
        """Returns the compiled program of all members, which have the same images and the same number of steps."""
        if self._program is None:
            self._program = SeedsProgram(experiment, train, [config.seed for config in self._configs])
        return self._program.compile(state)

    def run(self, member: int, state: TrainState, step: int, count: int) -> tuple[TrainState, Metrics]:
        """Waits for the other members, and returns a result like `TrainingProgram.run`, of at most `count` steps.

        Raises any error of the program.
        """
        self._requests[member] = state, step, count
        while member not in self._answers:
            if self._requests.keys() | self._answers.keys() >= self._active:
                self._dispatch()
                self._turn.notify_all()
            else:
                self._turn.wait()
        answer = self._answers.pop(member)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _dispatch(self) -> None:
        """Runs the steps of the members that are furthest behind; the other members wait until these have caught up."""
        assert self._program is not None
        step = min(step for _, step, _ in self._requests.values())
        members = [member for member, (_, at, _) in self._requests.items() if at == step]
        requests = [self._requests.pop(member) for member in members]
        count = min(count for _, _, count in requests)
        try:
            answers = self._program.run(members, [state for state, _, _ in requests], step, count)
            self._answers |= dict(zip(members, answers, strict=True))
        except BaseException as error:  # the program fails for all members
            self._answers |= dict.fromkeys(members, error)


class _Member:
    """The `TrainingProgram` of one run of a team."""

    def __init__(self, team: _Team, member: int, experiment: Experiment, train: Split):
        self._team, self._member, self._experiment, self._train = team, member, experiment, train

    def compile(self, state: TrainState) -> jax.stages.Compiled | jax.stages.Wrapped:
        return self._team.compile(self._experiment, self._train, state)

    def run(self, state: TrainState, step: int, count: int) -> tuple[TrainState, Metrics]:
        return self._team.run(self._member, state, step, count)

    def close(self) -> None: ...


class SeedsProgram:
    """The training steps of several seeds in one program, with one copy of the training set."""

    def __init__(self, experiment: Experiment, train: Split, seeds: Sequence[int]):
        config = experiment.config
        self._experiment, self._seeds = experiment, seeds
        self._positions = device_positions(config.batch_size)
        self._data = device_data(experiment, train)
        self._compiled: jax.stages.Compiled | jax.stages.Wrapped | None = None
        mapped = jax.vmap(steps_function(experiment), (0, None, None, 0, 0, None, None))
        self._run = map_over_devices(mapped)

        def stack(*states: TrainState) -> PyTree:
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

        def split(stacked: PyTree) -> list[TrainState]:
            return [jax.tree.map(operator.itemgetter(place), stacked) for place in range(len(seeds))]

        self._stack, self._split = jax.jit(stack), jax.jit(split)

    def compile(self, state: TrainState) -> jax.stages.Compiled | jax.stages.Wrapped:
        """Compiles the program, once, for one state like `state` per seed."""
        if self._compiled is None:
            stacked = self._stack(*[state] * len(self._seeds))
            arguments, graph = self._arguments(stacked, self._seeds, 0), self._experiment.config.cuda_graph
            self._compiled = compile_parallel(self._run, *arguments, np.int32(0), np.int32(0), cuda_graph=graph)
        return self._compiled

    def run(
        self, members: Sequence[int], states: Sequence[TrainState], step: int, count: int
    ) -> list[tuple[TrainState, Metrics]]:
        """Runs `count` steps for some seeds; the unused slots repeat the first of these."""
        epoch, start = divmod(step, self._experiment.steps_per_epoch)
        spare = len(self._seeds) - len(members)
        stacked = self._stack(*states, *[states[0]] * spare)
        seeds = [self._seeds[member] for member in (*members, *[members[0]] * spare)]
        arguments = self._arguments(stacked, seeds, epoch)
        stacked, metrics = self.compile(states[0])(*arguments, np.int32(start), np.int32(count))
        metrics = jax.device_get(metrics)
        rows = [
            [{name: values[place, i] for name, values in metrics.items()} for i in range(start, start + count)]
            for place in range(len(members))
        ]
        return list(zip(self._split(stacked), rows, strict=False))

    def _arguments(self, stacked: PyTree, seeds: Sequence[int], epoch: int) -> tuple[object, ...]:
        experiment, batch_size = self._experiment, self._experiment.config.batch_size
        order = np.stack([epoch_order(seed, epoch, experiment.num_examples, batch_size) for seed in seeds])
        keys = np.stack([seed_key(seed) for seed in seeds])
        return stacked, self._positions, self._data, replicate(order), keys
