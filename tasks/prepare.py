"""The `prepare` task: weights found, data set tokenized and cached, what will be used logged."""

import json
from dataclasses import asdict

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.job.attempt import Attempt
from tasks.models.sources import ModelSource, NamedRows
from tasks.training.devices import require_devices
from tasks.training.methods import require_method


class Prepared:
    """What training works on: where the model's parts lie, and the data set."""

    def __init__(self, source: ModelSource, dataset: NamedRows) -> None:
        self.source = source
        self.dataset = dataset


@task(cache_policy=NO_CACHE, persist_result=False)
def prepare(attempt: Attempt) -> Prepared:
    """Find the weights, tokenize the data set (once for each content), and log what was cut."""
    recipe = attempt.recipe
    source = ModelSource(attempt.settings, attempt.model, recipe.chat_format, recipe.add_eos)
    require_method(recipe.method, source.device)
    require_devices(recipe.devices, source.device)
    if recipe.max_seq_length > source.context_length:
        attempt.log.line(
            f"max_seq_length {recipe.max_seq_length} is cut to the model's context, {source.context_length}"
        )
    dataset = source.prepare_training(attempt.database, recipe)
    report = dataset.prepared.report
    attempt.log.line(
        f"Data set {dataset.name}: {report.train_rows} rows to train on, {report.held_out_rows} held out, "
        f"{report.cut_rows} cut at max_seq_length, {report.unusable_rows} unusable"
    )
    if (report.train_windows, report.held_out_windows) != (report.train_rows, report.held_out_rows):
        attempt.log.line(
            f"They are read as windows of at most max_seq_length tokens: {report.train_windows} to train on, "
            f"{report.held_out_windows} held out"
        )
    profile = json.dumps(asdict(report))
    attempt.deliver(
        lambda: attempt.run.log_dataset(
            dataset.name, dataset.prepared.fingerprint, dataset.source, context="training", profile=profile
        ),
        "take the data set's record",
    )
    attempt.watch.check()
    return Prepared(source, dataset)
