"""From task files in a folder to lm-eval's tasks: their data are found beside them, and nowhere on a network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lm_eval.api.metrics  # noqa: F401 - fills the registry of metrics
from datasets.exceptions import DatasetGenerationError
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory

from tasks.harness.errors import BenchmarkError, DataUnreachable, TaskUnusable, UnknownTask
from tasks.harness.offline import offline

NETWORK_MARK = "://"


def load_tasks(folder: Path, names: Iterable[str], cache_dir: Path) -> dict[str, Any]:
    """Return lm-eval's tasks and groups of these names, with their data read; `lm_eval.evaluate` takes what it returns.

    A task's data are converted into `cache_dir`, which must stay until the tasks have been measured.

    Raises:
        UnknownTask: no file in `folder` defines the name.
        DataUnreachable: a task's data are not on this machine.
        TaskUnusable: a task's file can't be used, or asks for a metric whose code is on the hub.
    """
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    offered = manager.task_index
    factory = _LocalTaskFactory(cache_dir)
    built: list[Any] = []
    with offline():
        for name in dict.fromkeys(names):
            if name not in offered:
                raise UnknownTask(_unknown(name, folder, manager))
            try:
                made = factory.build(offered[name], registry=offered)
            except BenchmarkError:
                raise
            except Exception as error:
                raise TaskUnusable(f"{name} ({offered[name].yaml_path}) can't be used: {_words(error)}.") from error
            built.extend(made if isinstance(made, list) else [made])
        try:
            return dict(manager.load(built))
        except ValueError as error:
            raise TaskUnusable(f"These tasks can't be measured in one run: {_words(error)}.") from error


class _LocalTaskFactory(TaskFactory):  # type: ignore[misc]
    """lm-eval's own factory, with paths read from the file's folder instead of the working directory."""

    def __init__(self, cache_dir: Path) -> None:
        super().__init__()
        self._cache_dir = cache_dir

    def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        return self._localized(config, entry.yaml_path.parent.resolve())

    def _localized(self, config: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return a task's or group's configuration, and those within it, with absolute paths."""
        config = dict(config)
        for metric in config.get("metric_list") or []:
            _check_metric(metric, config)
        options = dict(config.get("dataset_kwargs") or {})
        path = config.get("dataset_path")
        if "data_files" in options:
            options["data_files"] = _absolute(options["data_files"], folder)
        elif isinstance(path, str) and (folder / path).is_dir():
            config["dataset_path"] = str(folder / path)
        if "data_dir" in options:
            options["data_dir"] = _absolute(options["data_dir"], folder)
        if "data_files" in options or config.get("dataset_path") != path:
            # What the hub's libraries have in their own cache is looked for there.
            options["cache_dir"] = str(self._cache_dir)
        if options:
            config["dataset_kwargs"] = options
        members = config.get("task")
        if isinstance(members, list):
            config["task"] = [self._localized(one, folder) if isinstance(one, dict) else one for one in members]
        return config

    def _build_task(self, entry: Any, overrides: dict[str, Any] | None) -> Any:
        try:
            return super()._build_task(entry, overrides)
        except BenchmarkError as error:
            raise type(error)(f"The task {entry.name} ({entry.yaml_path}) can't be used: {error}") from error
        except (ConnectionError, FileNotFoundError) as error:
            raise DataUnreachable(
                f"The data of the task {entry.name} ({entry.yaml_path}) can't be reached: {_words(error)}. No hub is "
                "asked for them: put the file beside the task's file, and name it under dataset_kwargs.data_files."
            ) from error
        except StopIteration as error:
            # What the JSON reader makes of an empty file.
            raise TaskUnusable(f"The data of the task {entry.name} ({entry.yaml_path}) have no rows.") from error
        except Exception as error:
            raise TaskUnusable(f"The task {entry.name} ({entry.yaml_path}) can't be used: {_words(error)}.") from error


def _absolute(paths: Any, folder: Path) -> Any:
    """Return a path, a list or a mapping of them, from `folder` on; raises `DataUnreachable` for an address."""
    if isinstance(paths, dict):
        return {split: _absolute(path, folder) for split, path in paths.items()}
    if isinstance(paths, list):
        return [_absolute(path, folder) for path in paths]
    if NETWORK_MARK in str(paths):
        raise DataUnreachable(f"{paths} is on a network, and data are read from this machine alone.")
    return str(folder / str(paths))


def _check_metric(metric: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise `TaskUnusable` for a metric that lm-eval would look for on the hub, where it is code."""
    name = metric.get("metric")
    if not isinstance(name, str) or config.get("process_results") is not None:
        return
    if metric.get("hf_evaluate") or name not in metric_registry:
        raise TaskUnusable(
            f"lm-eval has no metric {name} of its own, and code from the hub is never run. "
            f"It has {', '.join(sorted(metric_registry.keys()))}."
        )


def _unknown(name: str, folder: Path, manager: TaskManager) -> str:
    offered = ", ".join(manager.all_tasks) or "none"
    used = {entry.yaml_path for entry in manager.task_index.values()}
    rest = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.yaml") if file not in used)
    note = f" These files there define none, or can't be read: {', '.join(rest)}." if rest else ""
    return f"There is no task {name} in {folder}. The tasks there: {offered}.{note}"


def _words(error: BaseException) -> str:
    if isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        # Its own words are the same for every file.
        error = error.__cause__
    first = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
