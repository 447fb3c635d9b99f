"""The training loop: one function that reads top to bottom, and resumes at exactly the next step."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from configs.recipe import TrainingRecipe
from tasks.training.adapter import TrainedModel, trainable_weights
from tasks.training.batch import TokenRow, check_rows
from tasks.training.checkpoint import Progress
from tasks.training.errors import NonFiniteLoss, RowError
from tasks.training.memory import memory_errors
from tasks.training.observer import StepRecord, TrainingObserver, TrainOutcome
from tasks.training.planning import StepPlan
from tasks.training.ranks import SINGLE_RANK, Ranks
from tasks.training.rng import private_rng, seed_of_rank
from tasks.training.sampler import step_batches, total_epochs, total_steps
from tasks.training.saved_run import SavedRun, backend_of
from tasks.training.saves import Saves
from tasks.training.schedule import learning_rate_at
from tasks.training.sharding import full_tensor
from tasks.training.snapshot import Snapshots, run_identity
from tasks.training.step_backend import StepBackend, choose_backend, held_out_loss, micro_batches

MAX_GRAD_NORM = 1.0


def train(  # noqa: PLR0913 - a recipe has many ingredients
    model: TrainedModel,
    train_rows: Sequence[TokenRow],
    held_out_rows: Sequence[TokenRow],
    recipe: TrainingRecipe,
    *,
    pad_token_id: int,
    saved_run: SavedRun,
    data_fingerprint: str,
    observer: TrainingObserver,
    should_pause: Callable[[], bool],
    checkpoint_interval: float = 60.0,
    background_saves: bool = False,
    compute_dtype: torch.dtype | None = None,
    plan: StepPlan | None = None,
    ranks: Ranks = SINGLE_RANK,
) -> TrainOutcome:
    """Train what trains in `model` in place, from the newest complete checkpoint of `saved_run` if there is one.

    Products are computed in `compute_dtype`; none: the base weights' format.
    Saves every `checkpoint_interval` seconds (less often if that would take more than 1% of the time; after every step
    if it is 0), at the lowest held-out loss so far, before pausing and at the end; with `background_saves` a thread
    writes while the next steps run, which takes a copy of what is saved. Asks `should_pause` between steps.
    Stops early if the recipe says so; at the end the model has the last weights, or the best if the recipe says so.
    A step is cut as `plan` says; without one `batch_size` rows are in memory at once, shared by the `ranks`, which all
    call this alike: only rank 0 saves, and its `should_pause` and its clock count for all.
    On the CPU, with the same torch and number of threads, an interrupted run gives the losses and weights of an
    uninterrupted one bit for bit. Raises RowError, CheckpointMismatch, BestCheckpointLost, NonFiniteLoss
    or OutOfMemory (tasks.training.errors).
    """
    # 1. Plan the run
    if not train_rows:
        raise RowError("there is no row to train on")
    for rows in (train_rows, held_out_rows):
        check_rows(rows, getattr(model.config.get_text_config(), "max_position_embeddings", None))
    last_step = total_steps(recipe, len(train_rows))
    plan = plan or StepPlan(recipe.rows_per_device)
    seed = seed_of_rank(recipe.seed, ranks.rank)
    with private_rng(model.get_input_embeddings().weight.device, seed), memory_errors(recipe, plan):
        # 2. Find out how far the run has come
        checkpoint = saved_run.take(ranks)
        begun = None if checkpoint is None else backend_of(checkpoint)
        backend = choose_backend(model, pad_token_id, begun, compute_dtype, recompute=plan.recompute)
        # 3. Make the optimizer, whose learning rate is set at each step, and go on from there
        optimizer = torch.optim.AdamW(trainable_weights(model).values(), weight_decay=0.0, fused=True)
        identity = run_identity(model, recipe, data_fingerprint, len(train_rows), backend)
        snapshots = Snapshots(saved_run.root, identity, model, optimizer, ranks)
        saved = None if checkpoint is None else snapshots.restore(checkpoint)
        del checkpoint  # a full-parameter state is large
        snapshots.discard_after(saved)
        progress = replace(saved or Progress(), plan=plan)
        with Saves(snapshots, observer, checkpoint_interval, ranks, background=background_saves) as saves:
            batches = step_batches(recipe, len(train_rows), progress.cursor)
            observer.on_start(progress.cursor.step, last_step, total_epochs(recipe, len(train_rows)))
            if (recipe.micro_batch == "auto" or plan.sharded) and progress != saved:
                saves.save(progress, at_once=True)  # a run that is killed in its first step has to cut its steps alike
                saved = progress
            while True:
                # 4. Between two steps: pause, evaluate, save, end
                saves.report()
                step = progress.cursor.step
                evaluating = bool(held_out_rows) and _evaluation_due(progress, recipe, last_step)
                may_pause = evaluating or not _is_over(progress, recipe, last_step)
                pausing, overdue = ranks.any(may_pause and should_pause(), saves.is_overdue())
                if evaluating and not pausing:
                    eval_loss = held_out_loss(backend, model, held_out_rows, plan.micro_batch, ranks)
                    progress = progress.evaluated(step, eval_loss)
                    observer.on_evaluation(step, eval_loss)
                ending = pausing or _is_over(progress, recipe, last_step)
                due = ending or progress.best_step == step or overdue
                if due and progress != saved:
                    saves.save(progress, at_once=ending)
                    saved = progress
                if ending:
                    saves.finish()
                    return _outcome(snapshots, progress, recipe, last_step, paused=pausing)
                # 5. One optimizer step
                row_ids, cursor = next(batches)
                record = _optimizer_step(
                    backend, model, optimizer, train_rows, row_ids, progress, recipe, plan=plan, ranks=ranks
                )
                progress = replace(progress, cursor=cursor, tokens_seen=record.tokens_seen, last_loss=record.loss)
                observer.on_step(record)


def _evaluation_due(progress: Progress, recipe: TrainingRecipe, last_step: int) -> bool:
    step = progress.cursor.step
    scheduled = recipe.eval_every is not None and step > 0 and step % recipe.eval_every == 0
    return (scheduled or step == last_step) and progress.eval_step != step


def _is_over(progress: Progress, recipe: TrainingRecipe, last_step: int) -> bool:
    return progress.cursor.step >= last_step or _out_of_patience(progress, recipe)


def _out_of_patience(progress: Progress, recipe: TrainingRecipe) -> bool:
    """Return whether `early_stopping_patience` evaluations in a row gave no new lowest held-out loss.

    Evaluations come every `eval_every` steps, so their steps say how many: a resumed run counts the same.
    """
    if recipe.early_stopping_patience is None or recipe.eval_every is None:
        return False
    if progress.eval_step is None:
        return False
    # A loss that is no finite number is no new lowest: without any other none has been since the start.
    return progress.eval_step - (progress.best_step or 0) >= recipe.early_stopping_patience * recipe.eval_every


def _outcome(
    snapshots: Snapshots, progress: Progress, recipe: TrainingRecipe, last_step: int, *, paused: bool
) -> TrainOutcome:
    """Load the weights that are asked for into the model, and return how the run ended."""
    step, best_step = progress.cursor.step, progress.best_step
    weights_step, eval_loss = step, progress.eval_loss if progress.eval_step == step else None
    if recipe.register_best and not paused and best_step is not None:
        weights_step, eval_loss = best_step, progress.best_loss
        if weights_step != step:
            snapshots.load_best_weights(weights_step)
    return TrainOutcome(
        paused=paused,
        stopped_early=not paused and step < last_step,
        step=step,
        total_steps=last_step,
        best_step=best_step,
        weights_step=weights_step,
        eval_loss=None if paused else eval_loss,
    )


def _optimizer_step(  # noqa: PLR0913 - it takes what a step is made of
    backend: StepBackend[Any],
    model: TrainedModel,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[TokenRow],
    row_ids: list[int],
    progress: Progress,
    recipe: TrainingRecipe,
    *,
    plan: StepPlan,
    ranks: Ranks,
) -> StepRecord:
    """Read the rows `row_ids`, accumulate their gradient, update the weights and return what happened.

    The loss is the weighted sum over all labelled tokens of the step divided by the sum of their weights (their number,
    where rows have none), so rows, micro-batches and ranks' shares of uneven length weigh what they hold.
    """
    started = time.perf_counter()
    step, last_step = progress.cursor.step + 1, total_steps(recipe, len(rows))
    learning_rate = learning_rate_at(step, last_step, recipe)
    batches = micro_batches(backend, model, [rows[row] for row in row_ids], plan.micro_batch, ranks)
    counts = (sum(batch.weight for batch in batches), sum(batch.tokens for batch in batches if batch.labelled))
    weight, tokens = ranks.sum(*counts)
    model.train()
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        total += backend.accumulate(batch, weight)
    (total,) = ranks.sum(total)  # first: this fails at once when a rank is gone, while a reduction on GPUs may hang
    ranks.add_gradients(trainable_weights(model).values())
    loss = total / weight
    norm = full_tensor(torch.nn.utils.clip_grad_norm_(trainable_weights(model).values(), MAX_GRAD_NORM)).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NonFiniteLoss(
            f"step {step} gave loss {loss} and gradient norm {norm} at learning rate {learning_rate:.3g}: lower "
            "learning_rate or raise warmup_ratio; if it is the first step, check the base model's weights"
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    seconds = time.perf_counter() - started
    return StepRecord(
        step=step,
        total_steps=last_step,
        epoch=progress.cursor.epoch + 1,
        loss=loss,
        learning_rate=learning_rate,
        grad_norm=norm,
        tokens=int(tokens),
        tokens_seen=progress.tokens_seen + int(tokens),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        sample_ids=tuple(row_ids),
    )
