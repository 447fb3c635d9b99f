"""Nothing that a record refers to goes, whatever its age; all that nothing refers to goes, when it is old enough."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.training.checkpoint_list import folder_name


def content() -> str:
    return uuid4().hex * 2


def adapters(world, status):
    root = world.settings.adapters_dir
    made, unmade = world.job(), world.job(status)
    model, deleted, evaluated = (world.model(adapter=uuid4().hex, deleted=gone) for gone in (False, True, True))
    world.model(job=made, adapter=made.uid)
    world.evaluation("RUNNING", model_id=evaluated.id)
    kept = [model.adapter, evaluated.adapter, made.uid, unmade.uid, "a person's own folder"]
    return [world.folder(root / name) for name in kept], [
        world.folder(root / name) for name in (deleted.adapter, uuid4().hex)
    ]


def weights(world, status):
    root, unmade = world.settings.weights_dir, world.job(status)
    parent, gone = world.model(weights=uuid4().hex, deleted=True), world.model(weights=uuid4().hex, deleted=True)
    # An adapter on top of full weights names them as its own.
    child = world.model(adapter=uuid4().hex, weights=parent.weights)
    return [world.folder(root / name) for name in (child.weights, unmade.uid)], [world.folder(root / gone.weights)]


def datasets(world, status):
    root, shared = world.settings.datasets_dir, content()
    live, needed, gone = world.dataset(content=content()), world.dataset(True, content=content()), content()
    world.dataset(True, content=gone)
    world.dataset(True, content=shared)
    world.dataset(content=shared)
    world.job("RUNNING", held_out_dataset_id=needed.id)
    world.file(root / "stdlib-docstrings.jsonl")
    kept = [root / "stdlib-docstrings.jsonl"]
    kept += [world.folder(root / name) for name in (live.content_hash, needed.content_hash, shared)]
    return kept, [world.folder(root / name) for name in (gone, content())]


def uploads(world, status):
    root = world.settings.uploads_dir
    waiting, ready, deleted = (
        world.dataset(status="VALIDATING"),
        world.dataset(content=content()),
        world.dataset(deleted=True, status="VALIDATING"),
    )
    return [world.file(root / waiting.uid)], [world.file(root / uid) for uid in (ready.uid, deleted.uid, uuid4().hex)]


def samples(world, status):
    root, known = world.settings.evaluations_dir, world.evaluation(status)
    kept = [world.file(root / f"{known.uid}.jsonl"), world.file(root / "notes.jsonl")]
    return kept, [world.file(root / f"{uuid4().hex}.jsonl"), world.file(root / "tmpab12_9xz")]


def job_folders(world, status):
    root, known = world.settings.jobs_dir, world.job(status)
    return [world.folder(root / str(known.id)), world.folder(root / "mine")], [world.folder(root / "4711")]


def checkpoint(world, job, step) -> Path:
    folder = world.folder(world.settings.jobs_dir / str(job.id) / "checkpoints" / folder_name(step))
    (folder / "state.json").write_text(
        json.dumps({"progress": {"eval_loss": None, "eval_step": None, "last_loss": 1.0}})
    )
    (folder / "manifest.json").write_text("{}")
    return folder


def checkpoints(world, status):
    done, unknown, other = world.job(), world.job(), world.job(status)
    world.model(job=done, adapter=done.uid, parameters={"weights_step": 20})
    older = world.job()
    world.model(job=older, adapter=older.uid, parameters={"adapter_step": 20})  # as an earlier version says it
    kept = [checkpoint(world, done, 20), checkpoint(world, older, 20), checkpoint(world, unknown, 10)]
    gone = [checkpoint(world, done, 10), checkpoint(world, done, 30)]
    gone.append(world.folder(gone[0].parent / ".unfinished-step-00000040"))
    kept_if_not_completed = [checkpoint(world, other, step) for step in (10, 20)]
    return kept + kept_if_not_completed, gone


def served_checkpoints(world, status):
    job = world.job(status)
    checkpoint(world, job, 10)
    root = world.settings.adapters_dir
    kept = [world.folder(root / f"{job.uid}-step-00000010-0a1b2c3d")]
    names = (f"{job.uid}-step-00000020-0a1b2c3d", f"{uuid4().hex}-step-00000010-0a1b2c3d")
    return kept, [world.folder(root / name) for name in names]


def unfinished(world, status):
    adapters_dir, data = world.settings.adapters_dir, world.settings.datasets_dir
    working, ended = world.job("RUNNING"), world.job("FAILED")
    kept = [world.folder(adapters_dir / f"{working.uid}.building")]
    names = (f"{ended.uid}.building", "checkpoint.building-ab12", f"{uuid4().hex}.removing-{uuid4().hex}")
    gone = [world.folder(adapters_dir / name) for name in names]
    gone += [world.folder(data / "dataset.building-x1"), world.folder(data / "tmpab12_9xz")]
    return kept, gone


def snapshots(world, status):
    made = [world.file(world.settings.snapshots_dir / f"{number}.db") for number in range(5)]
    for age, path in enumerate(made):
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    return made[:3], made[3:]


KINDS = [
    adapters,
    weights,
    datasets,
    samples,
    job_folders,
    checkpoints,
    served_checkpoints,
    unfinished,
    snapshots,
]


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "PAUSED", "FAILED", "CANCELLED"])
def test_what_a_record_refers_to_stays_and_the_rest_goes(world, status):
    made = {kind.__name__: kind(world, status) for kind in KINDS}
    planned = world.collect(dry_run=True)
    for kept, gone in made.values():
        assert all(path.exists() for path in (*kept, *gone))
    report = world.collect()
    assert report.failures == []
    assert sorted(one.what for one in report.removed) == sorted(one.what for one in planned.removed)
    assert report.freed_bytes > 0
    for kind, (kept, gone) in made.items():
        assert [path for path in kept if not path.exists()] == [], kind
        assert [path for path in gone if path.exists()] == [], kind
    assert world.collect().removed == []


def test_uploads_go_and_rows_stay_while_some_are_being_checked(world):
    """An upload of the same rows would find them, and not write them again."""
    kept, gone = uploads(world, "FAILED")
    rows = datasets(world, "FAILED")
    assert {one.what for one in world.collect().removed} == set(map(str, gone))
    assert all(path.exists() for path in (*kept, *rows[0], *rows[1]))


def test_what_is_young_stays(world):
    made = [kind(world, "FAILED") for kind in (*KINDS, uploads) if kind is not snapshots]
    assert world.collect(days=0.1).removed == []
    assert all(path.exists() for kept, gone in made for path in (*kept, *gone))


def test_nothing_goes_at_once_that_may_be_on_its_way_to_a_record(world):
    world.settings = world.settings.model_copy(update={"keep_orphans_days": 0.0})
    upload = world.file(world.settings.uploads_dir / uuid4().hex)
    assert world.collect(days=0.0).removed == []
    assert upload.exists()
    assert [one.what for one in world.collect(days=0.1).removed] == [str(upload)]


def test_none_keeps_for_ever(world):
    never = {name: None for name in type(world.settings).model_fields if name.startswith("keep_")}
    world.settings = world.settings.model_copy(update=never)
    for kind in (*KINDS, uploads):
        kind(world, "FAILED")
    assert world.collect(days=10_000).removed == []


def test_checkpoints_of_stopped_jobs_go_where_that_is_wanted(world):
    world.settings = world.settings.model_copy(update={"keep_stopped_checkpoints_days": 5.0})
    made = {status: checkpoint(world, world.job(status), 10) for status in ("FAILED", "CANCELLED", "PAUSED")}
    world.collect()
    assert {status for status, path in made.items() if path.exists()} == {"PAUSED"}


def test_a_job_whose_process_is_still_there_keeps_its_checkpoints(world):
    job = world.job()
    world.model(job=job, parameters={"weights_step": 20})
    spare = checkpoint(world, job, 10)
    with (spare.parents[1] / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert world.collect().removed == []
        assert spare.exists()
    assert [one.what for one in world.collect().removed] == [str(spare)]


def test_a_folder_that_is_being_built_stays(world):
    building = world.folder(world.settings.datasets_dir / "dataset.building-x1")
    claim = os.open(building, os.O_RDONLY)
    fcntl.flock(claim, fcntl.LOCK_EX)
    assert world.collect().removed == []
    os.close(claim)
    assert [one.what for one in world.collect().removed] == [str(building)]


def test_a_killed_runs_working_folder_goes_when_no_process_is_in_it(world):
    killed, used = (world.folder(Path(tempfile.gettempdir()) / f"flow-run-{name}") for name in ("killed", "used"))
    child = subprocess.Popen([sys.executable, "-c", "input()"], cwd=used, stdin=subprocess.PIPE)
    try:
        assert [one.what for one in world.collect().removed] == [str(killed)]
    finally:
        child.communicate(b"\n")
    assert [one.what for one in world.collect().removed] == [str(used)]


def test_tokens_that_are_read_or_may_be_stay(world):
    root = world.settings.datasets_dir
    live = world.dataset(content=content())
    folders = [root / "tokens-1", root / live.content_hash / "tokens-2"]
    for folder in folders:
        world.file(folder / "tokens.arrow")
    waiting = world.evaluation("PENDING")
    assert world.collect().removed == []
    with world.database.transaction() as session:
        session.delete(session.merge(waiting))
    assert {one.what for one in world.collect().removed} == {str(folder) for folder in folders}
    assert (root / live.content_hash).is_dir()
