"""Checkpoints are complete or skipped, few, and hold exactly what was put in."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.training import checkpoint as checkpoints
from tasks.training.checkpoint import Progress, TrainingState, discard_newer, latest_checkpoint
from tasks.training.errors import CheckpointMismatch
from tasks.training.sampler import Cursor
from tests.fixtures.first_release.unpack import unpack


def state_at(step: int) -> TrainingState:
    generator = torch.Generator().manual_seed(step)
    return TrainingState(
        progress=Progress(Cursor(1, 4, step), tokens_seen=100 * step, last_loss=0.1 + step, eval_loss=1 / 3),
        identity={"recipe.seed": 42, "data_fingerprint": "abc"},
        weights={"a": torch.randn(3, 2, generator=generator)},
        optimizer={"a/exp_avg": torch.randn(3, 2, generator=generator)},
        rng={"cpu": generator.get_state()},
    )


def save_checkpoint(root: Path, state: TrainingState) -> Path:
    return checkpoints.save_checkpoint(root, state, lambda: None)


def newest(root: Path, lines: list[str] | None = None) -> TrainingState | None:
    checkpoint = latest_checkpoint(root, pytest.fail if lines is None else lines.append)
    return checkpoint.state if checkpoint else None


def test_a_checkpoint_reads_back_exactly(tmp_path):
    saved = state_at(12)
    assert save_checkpoint(tmp_path, saved) == tmp_path / "step-00000012"
    loaded = newest(tmp_path)
    assert loaded is not None
    assert (loaded.progress, loaded.identity) == (saved.progress, saved.identity)
    for part in ("weights", "optimizer", "rng"):
        expected, found = getattr(saved, part), getattr(loaded, part)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_no_checkpoint_is_none(tmp_path):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "absent") is None


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_file_sends_us_to_the_one_before(tmp_path, file, damage):
    save_checkpoint(tmp_path, state_at(3))
    path = save_checkpoint(tmp_path, state_at(4)) / file
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    lines: list[str] = []
    loaded = newest(tmp_path, lines)
    assert loaded is not None
    assert loaded.progress.cursor.step == 3
    assert len(lines) == 1
    assert "step-00000004" in lines[0]


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "{}", '{"format": 99, "sha256": {}}', '{"format": 1, "sha256": {}}', '{"format": 2, "sha256": {}}'],
)
def test_a_bad_manifest_sends_us_to_the_one_before(tmp_path, manifest):
    save_checkpoint(tmp_path, state_at(3))
    (save_checkpoint(tmp_path, state_at(4)) / "manifest.json").write_text(manifest)
    lines: list[str] = []
    loaded = newest(tmp_path, lines)
    assert loaded is not None
    assert loaded.progress.cursor.step == 3
    assert len(lines) == 1


def test_a_save_cut_short_is_not_seen_and_is_cleaned_by_the_next(tmp_path):
    whole = save_checkpoint(tmp_path, state_at(3))
    torn = tmp_path / ".unfinished-step-00000004"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    loaded = newest(tmp_path)
    assert loaded is not None
    assert loaded.progress.cursor.step == 3
    save_checkpoint(tmp_path, state_at(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == [whole.name, "step-00000005"]


def test_saving_a_step_again_replaces_it_and_never_leaves_nothing(tmp_path):
    first = state_at(4)
    save_checkpoint(tmp_path, first)
    second = replace(first, progress=replace(first.progress, eval_step=4))
    folder = save_checkpoint(tmp_path, second)
    loaded = newest(tmp_path)
    assert loaded is not None
    assert loaded.progress == second.progress
    assert list(tmp_path.iterdir()) == [folder]
    folder.rename(tmp_path / "step-00000004.replaced")  # as between the two renames
    loaded = newest(tmp_path)
    assert loaded is not None
    assert loaded.progress == second.progress


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    for step in range(1, 7):
        state = state_at(step)
        progress = state.progress.evaluated(1, 3.0).evaluated(2, 2.0).evaluated(3, 2.0).evaluated(4, 2.5)
        assert (progress.best_step, progress.best_loss, progress.eval_step) == (2, 2.0, 4)
        save_checkpoint(tmp_path, replace(state, progress=progress if step > 2 else state.progress))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000005", "step-00000006"]
    discard_newer(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000005"]


def test_the_first_releases_checkpoints_are_read_and_said_in_todays_names(tmp_path):
    unpack(tmp_path)
    for job, step in ((1, 12), (2, 60)):
        folder = tmp_path / "jobs" / str(job) / "checkpoints"
        loaded = newest(folder)
        assert loaded is not None
        assert loaded.progress.cursor.step == step
        expected = load_file(folder / f"step-{step:08d}" / "adapter.safetensors")
        assert loaded.weights.keys() == expected.keys()
        assert all(torch.equal(loaded.weights[name], weight) for name, weight in expected.items())
        assert loaded.identity["compute_dtype"].startswith("torch.")
        assert not {"base_dtype", "path"} & loaded.identity.keys()


def test_another_runs_checkpoint_is_refused_by_name(tmp_path):
    save_checkpoint(tmp_path, state_at(3))
    checkpoint = latest_checkpoint(tmp_path, pytest.fail)
    assert checkpoint is not None
    checkpoint.require_match({"recipe.seed": 42, "data_fingerprint": "abc"}, {"recipe.seed": 7})
    with pytest.raises(CheckpointMismatch, match=r"recipe\.seed was 42, is 43"):
        checkpoint.require_match({"recipe.seed": 43, "data_fingerprint": "abc"}, {"recipe.seed": 43})


def test_a_field_that_the_saving_version_did_not_have_had_its_default(tmp_path):
    save_checkpoint(tmp_path, state_at(3))
    checkpoint = latest_checkpoint(tmp_path, pytest.fail)
    assert checkpoint is not None
    newer = {"recipe.seed": 42, "data_fingerprint": "abc", "recipe.new": 1}
    checkpoint.require_match(newer, {"recipe.new": 1})
    with pytest.raises(CheckpointMismatch, match=r"recipe\.new was 1, is 2"):
        checkpoint.require_match(newer | {"recipe.new": 2}, {"recipe.new": 1})
