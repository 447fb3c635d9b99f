"""One pass at a time, what the engine has in memory, and rules that fail beside others that do not."""

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from filelock import FileLock

from api.controller.retention import RetentionPass
from registry.clock import utcnow
from registry.repositories.retention import RetentionRepository
from tasks.retention import stored_files
from tasks.retention.collect import AlreadyRunning, collect, record_usage
from tasks.retention.rule import Context
from tasks.retention.rules import RULES


def test_every_rule_has_a_setting_of_its_own_name(settings):
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert hasattr(settings, rule.keep), rule


def test_two_passes_at_once_are_one(world):
    run_dir = world.settings.data_dir / "run"
    run_dir.mkdir()
    with FileLock(run_dir / "retention.lock"), pytest.raises(AlreadyRunning, match="removes things from"):
        world.collect()
    orphans = [world.file(world.settings.uploads_dir / uuid4().hex) for _ in range(50)]
    removed, refused = [], []

    def one() -> None:
        try:
            removed.extend(world.collect().removed)
        except AlreadyRunning as error:
            refused.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.what for one in removed) == sorted(map(str, orphans))


@pytest.mark.parametrize("says_nothing", [False, True])
def test_what_the_engine_has_loaded_stays(world, says_nothing):
    deleted, loaded = (world.model(deleted=True, adapter=uuid4().hex) for _ in range(2))
    folders = {model: world.folder(world.settings.adapters_dir / model.adapter) for model in (deleted, loaded)}
    known = None if says_nothing else frozenset({str(folders[loaded])})
    context = Context(world.settings, world.database, utcnow() + timedelta(days=40), known)
    found = {one.what for one in stored_files.adapters(context, context.before(1))}
    assert found == (set() if says_nothing else {str(folders[deleted])})


def test_a_service_that_is_down_fails_its_own_rule_only(world):
    orphan = world.file(world.settings.uploads_dir / uuid4().hex)
    world.settings = world.settings.model_copy(update={"keep_flow_runs_days": 1.0})
    report = world.collect()
    assert [one.what for one in report.removed] == [str(orphan)]
    (failure,) = report.failures
    assert failure.startswith("flow-runs: ")
    with world.database.reading() as session:
        newest = RetentionRepository(session).newest_pass()
        assert (newest.removed, newest.failures) == (1, [failure])


def test_usage_counts_a_file_with_two_names_once(world):
    adapter = world.file(world.settings.adapters_dir / "a" / "adapter_model.safetensors")
    twin = world.settings.mlflow_artifacts_dir / "1" / "adapter_model.safetensors"
    twin.parent.mkdir(parents=True)
    twin.hardlink_to(adapter)
    world.file(world.settings.data_dir / "something else")
    record_usage(world.settings, world.database)
    with world.database.reading() as session:
        usage = RetentionRepository(session).usage()
    assert usage["adapters"] >= 5000
    assert usage["mlflow"] == 0
    assert usage["platform_database"] > 0
    assert usage["other"] >= 5000


def test_the_nightly_pass_runs_once_a_night(world):
    nightly = RetentionPass(world.settings, world.database)
    now = utcnow().astimezone()
    started = now.replace(hour=1)
    assert not nightly.is_due(started.replace(day=1).replace(year=2020))
    assert nightly.work() is None or nightly.is_due(now)
    tomorrow = (now + timedelta(days=2)).replace(hour=world.settings.retention_hour, minute=1)
    assert nightly.is_due(tomorrow)
    collect(world.settings, world.database, now=lambda: utcnow() + timedelta(days=3))
    assert not nightly.is_due(tomorrow)
    assert nightly.is_due(tomorrow + timedelta(days=3))
