"""A run keeps to its plan through pauses and crashes, learns the same under any, and survives running out of memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.recipe import TrainingRecipe
from tasks.training.adapter import attach_lora, trainable_weights
from tasks.training.errors import DoesNotFit, OutOfMemory
from tasks.training.fitting import MemoryPlanner, workload_of
from tasks.training.memory import memory_errors
from tasks.training.observer import PlanRecord
from tasks.training.planning import StepPlan
from tasks.training.saved_run import SavedRun
from tests.tasks.training.job import Killed, Recorder, adapter_bytes, load_adapted, make_rows, run, unsay

RECIPE = TrainingRecipe(
    epochs=2, batch_size=6, learning_rate=1e-2, lora_r=4, lora_dropout=0.2, eval_every=3, micro_batch="auto"
)
LENGTHS = [len(row.input_ids) for row in make_rows(14)]
PLENTY = 10**12


def fitted(folder, recipe, checkpoints, recorder, available=PLENTY, *, killed=False):
    """Plan and train; return the model and the plans that were told of."""
    model = load_adapted(folder, recipe)
    told: list[PlanRecord] = []
    planner = MemoryPlanner(model, recipe, LENGTHS, torch.float32, SavedRun(checkpoints), available, told.append)
    planner.train(
        lambda plan, background: run(model, recipe, checkpoints, recorder, plan=plan, background=background),
        killed_for_memory=killed,
    )
    return model, told


def memory_for(folder, plan):
    return workload_of(load_adapted(folder, RECIPE), RECIPE, LENGTHS, None).peak(plan)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_fewer_rows_at_once_give_the_loss_of_the_full_batch(tiny_models_dir, tmp_path, name):
    recipe = RECIPE.model_copy(update={"lora_dropout": 0.0, "epochs": 3})
    traces = []
    for rows_at_once in (6, 4, 1):
        # GPT-2 has dropout of its own.
        own = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if name == "tiny-gpt2" else {}
        base = AutoModelForCausalLM.from_pretrained(tiny_models_dir / name, **own)
        recorder = Recorder()
        run(attach_lora(base, recipe), recipe, tmp_path / f"{rows_at_once}", recorder, plan=StepPlan(rows_at_once))
        traces.append([(record.loss, record.grad_norm) for record in recorder.records])
        assert [len(record.sample_ids) for record in recorder.records] == [6, 6, 2] * 3
    for trace in traces[1:]:
        for found, expected in zip(trace, traces[0], strict=True):
            assert found == pytest.approx(expected, rel=1e-4)


def test_a_run_keeps_to_the_plan_that_it_began_with(tiny_llama_dir, tmp_path):
    scarce = memory_for(tiny_llama_dir, StepPlan(2))
    whole = Recorder()
    model, told = fitted(tiny_llama_dir, RECIPE, tmp_path / "whole", whole, scarce)
    assert (told[0].micro_batch, told[0].gradient_accumulation, told[0].reason) == (2, 3, None)
    assert told[0].estimated_bytes <= told[0].available_bytes == scarce

    parts = Recorder(kill_after=1)
    with pytest.raises(Killed):  # before any checkpoint was due
        fitted(tiny_llama_dir, RECIPE, tmp_path / "parts", parts, scarce)
    assert SavedRun(tmp_path / "parts").plan(RECIPE) == StepPlan(2)
    parts = Recorder(pause_after=4)
    fitted(tiny_llama_dir, RECIPE, tmp_path / "parts", parts)  # by now there is plenty
    parts.pause_after = None
    again, told = fitted(tiny_llama_dir, RECIPE, tmp_path / "parts", parts)
    assert [plan.micro_batch for plan in told] == [2]
    assert parts.trace() == whole.trace()
    assert parts.events == whole.events
    assert adapter_bytes(again, tmp_path / "a") == adapter_bytes(model, tmp_path / "b")


def test_a_run_of_an_earlier_version_goes_on_with_batch_size_rows_at_once(tiny_llama_dir, tmp_path):
    recipe, paused = RECIPE.model_copy(update={"micro_batch": "as_given"}), Recorder(pause_after=2)
    fitted(tiny_llama_dir, recipe, tmp_path, paused)
    unsay(paused.saved[-1], "plan", "recipe.micro_batch")
    assert SavedRun(tmp_path).plan(recipe) == StepPlan(6)
    _, told = fitted(tiny_llama_dir, recipe, tmp_path, Recorder(), available=1)
    assert [plan.micro_batch for plan in told] == [6]


def test_checkpoints_are_written_beside_the_steps_where_there_is_room_for_a_copy(tiny_llama_dir, tmp_path):
    model = load_adapted(tiny_llama_dir, RECIPE)
    work = workload_of(model, RECIPE, LENGTHS, None)
    steps, copied = work.peak(StepPlan(6)), work.peak_with_copy(StepPlan(6))
    state = sum(weight.numel() for weight in trainable_weights(model).values()) * (4 + 4 + 4)
    assert copied - steps == state
    for number, (available, room) in enumerate([(copied, True), (copied - 1, False), (steps, False)]):
        recorder = Recorder(pause_after=2)
        _, (told,) = fitted(tiny_llama_dir, RECIPE, tmp_path / str(number), recorder, available)
        assert (told.micro_batch, told.background_saves) == (6, room)
        assert told.estimated_bytes == (copied if room else steps)
    # Memory has run out once: what the copy would take is left free.
    _, (told,) = fitted(tiny_llama_dir, RECIPE, tmp_path / "0", Recorder(), killed=True)
    assert (told.micro_batch, told.background_saves) == (3, False)


def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(tiny_llama_dir, tmp_path):
    recipe = RECIPE.model_copy(update={"micro_batch": "as_given"})
    scarce = memory_for(tiny_llama_dir, StepPlan(1))
    with pytest.raises(DoesNotFit, match=r"6 rows at once of up to \d+ tokens.* batch_size [1-5] would fit"):
        fitted(tiny_llama_dir, recipe, tmp_path, Recorder(), scarce)
    with pytest.raises(DoesNotFit, match="free memory"):
        fitted(tiny_llama_dir, RECIPE, tmp_path, Recorder(), 10**6)
    assert not list(tmp_path.iterdir())


def test_a_run_that_the_kernel_killed_for_memory_goes_on_with_less(tiny_llama_dir, tmp_path):
    fitted(tiny_llama_dir, RECIPE, tmp_path, Recorder(pause_after=1))
    expected = [StepPlan(3), StepPlan(1), StepPlan(1, recompute=True)]
    for step, plan in enumerate(expected, start=2):
        recorder = Recorder(pause_after=step)
        _, told = fitted(tiny_llama_dir, RECIPE, tmp_path, recorder, killed=True)
        (record,) = told
        assert (record.micro_batch, record.recompute) == (plan.micro_batch, plan.recompute)
        assert record.reason.startswith("the kernel killed the attempt before this one for lack of memory, with ")
        assert recorder.started_at[0] == step - 1
        assert SavedRun(tmp_path).plan(RECIPE) == plan
    with pytest.raises(OutOfMemory, match=r"1 row at once, activations computed again.* lower max_seq_length"):
        fitted(tiny_llama_dir, RECIPE, tmp_path, Recorder(), killed=True)


# Real allocations fail, by a limit that the kernel sets for this process: as if another had taken the rest.
STARVED = """
import json, resource, sys
from pathlib import Path
import psutil, torch
from transformers import LlamaConfig, LlamaForCausalLM
from configs.recipe import TrainingRecipe
from tasks.training.adapter import attach_lora
from tasks.training.errors import OutOfMemory
from tasks.training.fitting import MemoryPlanner
from tasks.training.saved_run import SavedRun
from tests.tasks.training.job import Recorder, Row, run

class Starving(Recorder):
    def on_step(self, record):
        super().on_step(record)
        if record.step == 2 and left:
            limit = psutil.Process().memory_info().data + left
            resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))

torch.set_num_threads(1)
recipe = TrainingRecipe(batch_size=8, max_steps=4, lora_r=4, lora_dropout=0, learning_rate=1e-2, micro_batch="auto")
ids = torch.randint(3, 300, (8, 128), generator=torch.Generator().manual_seed(1)).tolist()
rows = [Row(row, row) for row in ids]
shape = LlamaConfig(vocab_size=300, hidden_size=16, intermediate_size=4096, num_hidden_layers=2,
                    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128)
results = []
for name, left in (("plenty", 0), ("scarce", 40 << 20)):
    torch.manual_seed(0)
    model, recorder, told = attach_lora(LlamaForCausalLM(shape), recipe), Starving(), []
    folder = Path(sys.argv[1]) / name
    planner = MemoryPlanner(model, recipe, [128] * 8, torch.float32, SavedRun(folder), 10**12, told.append)
    planner.train(lambda plan, background: run(model, recipe, folder, recorder, rows=rows, held_out=[], interval=0,
                                               plan=plan, background=background))
    results.append({
        "plans": [[plan.micro_batch, plan.recompute] for plan in told],
        "reasons": [plan.reason for plan in told],
        "starts": recorder.started_at[::3],
        "losses": [(record.step, record.loss) for record in recorder.records],
    })
resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("RESULT", json.dumps(results))
"""


def test_out_of_memory_midway_goes_on_from_the_checkpoint_with_fewer_rows_at_once(tmp_path):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", STARVED, str(tmp_path)]
    # Freed memory goes back at once, so that the limit leaves as much as it says.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    plenty, scarce = json.loads(finished.stdout.rpartition("RESULT ")[2])
    assert plenty["plans"] == [[8, False]]
    smaller = len(scarce["plans"]) - 1
    assert smaller
    assert scarce["plans"] == [[8, False], [4, False], [2, False], [1, False], [1, True]][: smaller + 1]
    assert scarce["reasons"][0] is None
    assert scarce["reasons"][1] == "there was no memory left with 8 rows at once"
    assert scarce["starts"] == [0] + [2] * smaller
    for found, expected in zip(scarce["losses"], plenty["losses"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def starve(plan, recipe):
    with memory_errors(recipe, plan):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("kind", "plans", "advice"),
    [
        (
            "auto",
            [(6, False), (3, False), (1, False), (1, True)],
            r"does not fit in memory \(1 row at once, activations computed again\): lower max_seq_length \(now 512\)",
        ),
        ("as_given", [(6, False)], r"lower batch_size \(now 6;.* or set micro_batch to auto"),
    ],
)
def test_where_nothing_smaller_is_left_the_error_says_what_to_change(tiny_llama_dir, tmp_path, kind, plans, advice):
    recipe = RECIPE.model_copy(update={"micro_batch": kind})
    told: list[PlanRecord] = []
    planner = MemoryPlanner(
        load_adapted(tiny_llama_dir, recipe), recipe, LENGTHS, torch.float32, SavedRun(tmp_path), PLENTY, told.append
    )
    with pytest.raises(OutOfMemory, match=advice):
        planner.train(lambda plan, _: starve(plan, recipe))
    assert [(record.micro_batch, record.recompute) for record in told] == plans
