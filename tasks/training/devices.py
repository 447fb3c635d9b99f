"""Data-parallel training: this process is rank 0, and a process for each further device runs the same loop."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from configs.recipe import TrainingRecipe
from tasks.training.adapter import TrainedModel
from tasks.training.batch import TokenRow
from tasks.training.errors import TooFewDevices
from tasks.training.loop import train
from tasks.training.methods import METHODS, Origin
from tasks.training.observer import StepRecord, TrainingObserver, TrainOutcome
from tasks.training.planning import StepPlan
from tasks.training.rank_process import RankProcesses
from tasks.training.ranks import SINGLE_RANK, Ranks, process_group
from tasks.training.saved_run import SavedRun
from tasks.training.sharding import shard


@dataclass(frozen=True)
class Weights:
    """A picklable `Origin`: the folders of the model that training starts from, its device and its format."""

    base_folder: Path
    base_reference: str
    adapter_folder: Path | None
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class TrainingRun:
    """The arguments that all ranks of a run share; it pickles if its rows do. Its fields are those of `loop.train`."""

    recipe: TrainingRecipe
    train_rows: Sequence[TokenRow]
    held_out_rows: Sequence[TokenRow]
    pad_token_id: int
    saved_run: SavedRun
    data_fingerprint: str
    compute_dtype: torch.dtype
    checkpoint_interval: float
    background_saves: bool
    plan: StepPlan

    def train(
        self, model: TrainedModel, observer: TrainingObserver, should_pause: Callable[[], bool], ranks: Ranks
    ) -> TrainOutcome:
        """Train `model` as one of the `ranks`."""
        return train(
            model,
            self.train_rows,
            self.held_out_rows,
            self.recipe,
            pad_token_id=self.pad_token_id,
            saved_run=self.saved_run,
            data_fingerprint=self.data_fingerprint,
            observer=observer,
            should_pause=should_pause,
            checkpoint_interval=self.checkpoint_interval,
            background_saves=self.background_saves,
            compute_dtype=self.compute_dtype,
            plan=self.plan,
            ranks=ranks,
        )


def require_devices(devices: int, device: torch.device) -> None:
    """Raise TooFewDevices if there are fewer GPUs than a run asks for; on a CPU there is room for any number."""
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise TooFewDevices(
            f"devices is {devices}, but torch sees {torch.cuda.device_count()} GPUs here: ask for that many at most"
        )


def load(origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
    """Return the model to train, as the recipe's method loads it: on `origin`'s device if that has to hold all of it.

    Where a plan may divide it among the devices, it is on the CPU until `train_on_devices` has a plan. Raises what the
    method's `load` does.
    """
    device = torch.device("cpu") if True in recipe.shardings else origin.device
    return METHODS[recipe.method].load(_weights(origin, device), recipe)


def train_on_devices(
    run: TrainingRun,
    origin: Origin,
    model: TrainedModel,
    observer: TrainingObserver,
    should_pause: Callable[[], bool],
) -> TrainOutcome:
    """Train `model`, which `load` has made from `origin`, on the devices that the recipe asks for.

    If the plan says so its weights are sharded among them; `model` then holds this rank's shard, for this run only.
    This process reports, decides and saves for all ranks; when it ends, the others do too. Raises what `train` does, on
    whichever rank, or RankLost. On a CPU the ranks divide this process's threads among them.
    """
    size = run.recipe.devices
    if size == 1:
        return run.train(model, observer, should_pause, SINGLE_RANK)
    threads = max(1, torch.get_num_threads() // size)
    with tempfile.TemporaryDirectory() as folder, _threads(threads):
        rendezvous = Path(folder) / "ranks"
        with RankProcesses(size, partial(_assist, run, _weights_of_ranks(origin, size), threads, rendezvous)) as others:
            others.await_ready()
            with others.failures_named(), process_group(0, size, origin.device, rendezvous) as ranks:
                if run.plan.sharded:
                    ranks.in_turn(partial(shard, model, origin.device))
                else:
                    model.to(origin.device)
                return run.train(model, observer, should_pause, ranks)


def _assist(
    run: TrainingRun,
    places: list[Weights],
    threads: int,
    rendezvous: Path,
    rank: int,
    ready: Callable[[], None],
) -> None:
    """Run the training loop as another rank, over its share of the rows."""
    torch.set_num_threads(threads)
    place = places[rank]
    if place.device.type == "cuda":
        torch.cuda.set_device(place.device)
    # With sharding one rank after the other loads, as a full model is large; otherwise all at once, before they join.
    model = None if run.plan.sharded else METHODS[run.recipe.method].load(place, run.recipe)
    ready()
    with process_group(rank, len(places), place.device, rendezvous) as ranks:
        if model is None:
            model = ranks.in_turn(partial(_load_shard, place, run.recipe))
        run.train(model, _NoReports(), lambda: False, ranks)


def _load_shard(place: Weights, recipe: TrainingRecipe) -> TrainedModel:
    model = load(place, recipe)
    shard(model, place.device)
    return model


class _NoReports:
    """An observer that does nothing: rank 0 reports for all."""

    def on_start(self, step: int, total_steps: int, total_epochs: int) -> None:
        pass

    def on_step(self, record: StepRecord) -> None:
        pass

    def on_evaluation(self, step: int, eval_loss: float) -> None:
        pass

    def before_checkpoint(self, step: int) -> None:
        pass

    def on_checkpoint(self, step: int, path: Path) -> None:
        pass


def _weights_of_ranks(origin: Origin, size: int) -> list[Weights]:
    """Return each rank's model and device: rank 0's is `origin`'s, the others get the devices beside it."""
    devices = [origin.device] * size
    if origin.device.type == "cuda":
        own = origin.device.index or 0
        others = [index for index in range(torch.cuda.device_count()) if index != own]
        devices[1:] = [torch.device("cuda", index) for index in others[: size - 1]]
    return [_weights(origin, device) for device in devices]


def _weights(origin: Origin, device: torch.device) -> Weights:
    return Weights(origin.base_folder, origin.base_reference, origin.adapter_folder, device, origin.dtype)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
