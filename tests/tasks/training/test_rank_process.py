"""The ranks of a run end together: whichever dies takes the others with it, and the cause is reported."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest

from tasks.training.errors import OutOfMemory, RankLost
from tasks.training.rank_process import RankProcesses


def be_ready(rank, ready):
    ready()


def run_out_of_memory(rank, ready):
    raise OutOfMemory(f"no room on rank {rank}")


def die(rank, ready):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("work", "error", "sentence"),
    [
        (run_out_of_memory, OutOfMemory, "no room on rank 1"),
        (die, RankLost, "the process of rank 1 ended before the run, with code -9"),
    ],
)
def test_what_ends_a_rank_is_reported(work, error, sentence):
    with pytest.raises(error, match=sentence), RankProcesses(2, work) as others:
        others.await_ready()
    with pytest.raises(error, match=sentence), RankProcesses(2, work) as others, others.failures_named():
        raise RuntimeError("the connection was closed")
    assert not active_children()


def test_the_ranks_leave_with_the_block_and_stay_through_signals_to_all():
    with RankProcesses(3, be_ready) as others:
        others.await_ready()
        ranks = [psutil.Process(child.pid) for child in active_children()]
        for rank in ranks:
            rank.terminate()  # answered by rank 0 alone
        gone, _ = psutil.wait_procs(ranks, timeout=0.5)
        assert not gone
    assert not any(rank.is_running() for rank in ranks)


RANK_0 = """
import os, signal, sys
from multiprocessing import active_children
from tasks.training import rank_process
from tests.tasks.training.test_rank_process import be_ready

if __name__ == "__main__":
    rank_process.NOTICE_SECONDS = 0.1
    with rank_process.RankProcesses(2, be_ready) as others:
        others.await_ready()
        (other,) = active_children()
        print(other.pid, flush=True)
        os.kill(os.getpid() if sys.argv[1] == "first" else other.pid, signal.SIGKILL)
        signal.pause()
"""


@pytest.mark.parametrize("killed", ["first", "second"])
def test_neither_rank_outlives_the_other(killed):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", RANK_0, killed]
    finished = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert finished.returncode == -signal.SIGKILL
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(finished.stdout)).wait(timeout=30)
