"""Reports a running job: metrics to MLflow, a snapshot to our tables, progress to Prefect, beside the training loop."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from sqlalchemy.exc import SQLAlchemyError

from registry.database import Database
from registry.repositories.flow_backed import LeaseLost
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import TrainingJob
from registry.tracking import TrackedRun
from tasks.job.lease import Lease
from tasks.job.log import JobLog
from tasks.job.trace import Trace
from tasks.training.observer import PlanRecord, StepRecord, TrainOutcome

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
SMOOTHING = 0.1
PREFECT_INTERVAL_SECONDS = 2.0


class Reporter:
    """The training loop's observer: what it hears is passed on by a thread, so that no step waits for a server."""

    def __init__(
        self,
        database: Database,
        job_id: int,
        run: TrackedRun,
        log: JobLog,
        trace: Trace,
        lease: Lease[TrainingJob],
    ) -> None:
        self._lease = lease
        self._job_id = job_id
        self._run = run
        self._log = log
        self._trace = trace
        self._last: StepRecord | None = None
        self._snapshot: dict[str, float | int | None] = {}
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()
        self._tracking = threading.Lock()
        self._seconds_per_step: float | None = None
        self._epochs = 0
        # The last step of each kind that each store has got: an attempt that was killed may have told one of them.
        self._tracked = {"step": run.last_step("loss"), "evaluation": run.last_step("eval_loss")}
        with database.reading() as session:
            jobs = TrainingJobRepository(session)
            self._told = {kind: jobs.last_event_step(job_id, kind) for kind in self._tracked}
        self._progress_artifact: UUID | None = None
        self._progress_told = (-1.0, 0.0)
        self._stop = threading.Event()
        self._failing: set[str] = set()
        # The copied context lets Prefect's artifacts, made in the thread, know their flow run.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._loop,), name="reporter", daemon=True)
        self._send_missing()
        self._thread.start()

    def on_start(self, step: int, total_steps: int, total_epochs: int) -> None:
        """Log where the run starts, or goes on."""
        self._epochs = total_epochs
        self._update(step=step, attempt_step=step, total_steps=total_steps)
        if step:
            self._log.line(f"Resumed after step {step} of {total_steps}")
        else:
            self._log.line(f"Training {total_steps} steps over {total_epochs} epochs")

    def on_step(self, record: StepRecord) -> None:
        """Keep a step: in the trace now, elsewhere soon; raises `LeaseLost` if the trace is another process's now."""
        self._lease.check()
        metrics = {
            "loss": record.loss,
            "learning_rate": record.learning_rate,
            "grad_norm": record.grad_norm,
            "tokens_per_second": record.tokens_per_second,
        }
        self._trace.append(record.step, metrics, epoch=record.epoch, sample_ids=record.sample_ids)
        self._pass_on("step", record.step, metrics, epoch=record.epoch)
        if self._last is not None and record.epoch > self._last.epoch:
            self._log.line(f"Epoch {self._last.epoch}/{self._epochs} completed with loss {self._last.loss:.4f}")
        self._last = record
        before = self._seconds_per_step or record.seconds
        self._seconds_per_step = before + SMOOTHING * (record.seconds - before)
        self._update(
            step=record.step,
            current_epoch=record.epoch,
            current_loss=record.loss,
            tokens_per_second=record.tokens_per_second,
            trained_tokens=record.tokens_seen,
            seconds_per_step=self._seconds_per_step,
        )

    def on_evaluation(self, step: int, eval_loss: float) -> None:
        """Keep a held-out loss; raises `LeaseLost` as `on_step` does."""
        self._lease.check()
        self._trace.append(step, {"eval_loss": eval_loss})
        self._pass_on("evaluation", step, {"eval_loss": eval_loss})
        self._update(eval_loss=eval_loss)
        self._log.line(f"Step {step}: held-out loss {eval_loss:.4f}")

    def before_checkpoint(self, step: int) -> None:
        """Raise `LeaseLost` if the folder of checkpoints is another process's now."""
        self._lease.check()

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Tell of a complete checkpoint."""
        self._event("checkpoint", step=step, name=path.name)

    def on_plan(self, plan: PlanRecord) -> None:
        """Log how the steps are cut to fit in memory, and why not as before."""
        estimated = None if plan.estimated_bytes is None else round(plan.estimated_bytes / 1e9, 2)
        available = round(plan.available_bytes / 1e9, 2)
        self._event(
            "memory",
            micro_batch=plan.micro_batch,
            gradient_accumulation=plan.gradient_accumulation,
            recompute=plan.recompute,
            sharded=plan.sharded,
            background_saves=plan.background_saves,
            estimated_gb=estimated,
            available_gb=available,
            reason=plan.reason,
        )
        if plan.reason is not None:
            self._log.line(f"Out of memory: {plan.reason}; going on from the newest checkpoint with less")
        about = "" if estimated is None else f"about {estimated:.2f} GB of {available:.2f} GB with "
        self._log.line(f"Memory: {about}{plan.rows_at_once}; micro-batches a step: {plan.gradient_accumulation}")
        if not plan.background_saves:
            self._log.line("Checkpoints are written between two steps: there is no sure room to copy the state")

    def on_completed(self, outcome: TrainOutcome) -> None:
        """Log the end of the last epoch, if it was reached, and keep the held-out loss of what will be registered."""
        self._update(eval_loss=outcome.eval_loss)
        if self._last is not None and not outcome.stopped_early:
            self._log.line(f"Epoch {self._last.epoch}/{self._epochs} completed with loss {self._last.loss:.4f}")

    def flush(self) -> None:
        """Pass everything on now; raises if a store does not answer, and keeps what it did not get."""
        self._store_snapshot()
        self._log.flush()
        self._send_metrics()

    def send_all_again(self) -> None:
        """Queue every number for MLflow anew: its run is another one, which has none of them."""
        with self._tracking:
            self._run.forget_pending()
            self._tracked = dict.fromkeys(self._tracked, 0)
            for row in self._trace.rows():
                kind = "evaluation" if "eval_loss" in row.metrics else "step"
                self._track(kind, row.step, row.metrics)

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()
        self._trace.close()

    def _update(self, **values: float | int | None) -> None:
        with self._lock:
            self._snapshot |= values

    def _event(self, kind: str, **data: Any) -> None:
        with self._lock:
            self._events.append((kind, data))

    def _pass_on(self, kind: str, step: int, metrics: dict[str, float], **more: Any) -> None:
        """Queue for each store what it has not got: steps that are done again after a crash give the same numbers."""
        with self._tracking:
            self._track(kind, step, metrics)
        if step > self._told[kind]:
            self._event(kind, step=step, **more, **metrics)
            self._told[kind] = step

    def _track(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        if step > self._tracked[kind]:
            self._run.add_metrics(metrics, step)
            self._tracked[kind] = step

    def _send_metrics(self) -> None:
        # Its run has no fence of its own.
        self._lease.check()
        self._run.flush()

    def _send_missing(self) -> None:
        """Queue what a killed process had measured and not sent."""
        for row in self._trace.rows():
            if "eval_loss" in row.metrics:
                self._pass_on("evaluation", row.step, row.metrics)
            else:
                self._pass_on("step", row.step, row.metrics, epoch=row.epoch)

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self._try("the database", self._store_snapshot)
            self._try("the database's log", self._log.flush)
            self._try("MLflow", self._send_metrics)
            self._try("Prefect", self._show_progress)

    def _try(self, store: str, action: Callable[[], None]) -> None:
        """Run one store's part; a store that is away is tried again in half a second, and training goes on."""
        try:
            action()
        except LeaseLost:
            self._stop.set()
        except Exception as error:  # noqa: BLE001 - the edge of a thread: recorded here, and raised by `flush` at the end
            if store not in self._failing:
                self._failing.add(store)
                logger.warning("%s does not answer, reports wait: %s", store, error)
        else:
            self._failing.discard(store)

    def _store_snapshot(self) -> None:
        """Write what has changed, and the events, in one transaction; they are kept if it fails."""
        with self._lock:
            snapshot, self._snapshot = self._snapshot, {}
            events, self._events = self._events, []
        if not snapshot and not events:
            return
        try:
            with self._lease.writing() as (session, job):
                jobs = TrainingJobRepository(session)
                jobs.record_progress(job.id, snapshot)
                jobs.add_events(job.id, events)
        except SQLAlchemyError:
            with self._lock:
                self._snapshot = snapshot | self._snapshot
                self._events = events + self._events
            raise

    def _show_progress(self) -> None:
        if self._last is None or time.monotonic() - self._progress_told[1] < PREFECT_INTERVAL_SECONDS:
            return
        progress = round(100.0 * self._last.step / self._last.total_steps, 1)
        if progress == self._progress_told[0]:
            return
        if self._progress_artifact is None:
            made = create_progress_artifact(
                progress, key=f"training-job-{self._job_id}", description=f"Progress of training job {self._job_id}"
            )
            # Prefect's function is asynchronous where an event loop runs; in this thread there is none.
            assert isinstance(made, UUID)
            self._progress_artifact = made
        else:
            update_progress_artifact(self._progress_artifact, progress)
        self._progress_told = (progress, time.monotonic())
