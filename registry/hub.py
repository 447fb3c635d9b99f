"""Downloads from the hub: its sizes are asked for first and compared with the free disk, and one that stalls is ended.

Each runs in a process of its own, which can be ended: no time limit of a library holds for all of its ways to read.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]
HUB_TIMEOUT_SECONDS = 3.0
STALL_SECONDS = 120.0
MIN_FREE_BYTES = 2_000_000_000
POLL_SECONDS = 0.5
# Weights as safetensors, and text beside them. Pickles (`.bin`, `.pt`) are never fetched: loading one runs its code.
MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "LICENSE*",
    "README*",
)


class HubError(Exception):
    """The hub does not have it, does not answer, or there is no room for it; the message says which."""


def sizes(kind: Kind, name: str, patterns: tuple[str, ...] = ("*",)) -> dict[str, int]:
    """Return the hub's files that match, with their bytes; raises `HubError` if it does not say."""
    from huggingface_hub import HfApi

    api = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        siblings = ask(name, timeout=HUB_TIMEOUT_SECONDS, files_metadata=True).siblings or []
    except Exception as error:
        raise HubError(f"the hub did not provide it ({first_line(error)})") from error
    return {
        file.rfilename: file.size or 0
        for file in siblings
        if any(fnmatch(file.rfilename, pattern) for pattern in patterns)
    }


def require_room(what: str, needed: int, folder: Path, min_free_bytes: int) -> None:
    """Raise `HubError` with both numbers if `needed` bytes in `folder` would leave less than `min_free_bytes` free."""
    free = shutil.disk_usage(_existing(folder)).free
    if needed > free - min_free_bytes:
        raise HubError(
            f"{what} takes {_gigabytes(needed)} GB of disk, and of the {_gigabytes(free)} GB that are free in "
            f"{_existing(folder)} {_gigabytes(min_free_bytes)} GB are kept (LLM_PLATFORM_MIN_FREE_DISK_GB)"
        )


class Stall:
    """Watches whether a process still writes anything."""

    def __init__(self, pid: int, seconds: float = STALL_SECONDS) -> None:
        self._pid = pid
        self.seconds = seconds
        self._written, self._since = -1, time.monotonic()

    def has_stalled(self) -> bool:
        """Return whether the process has written nothing for so long."""
        written = _written_bytes(self._pid)
        if written != self._written:
            self._written, self._since = written, time.monotonic()
        return time.monotonic() - self._since > self.seconds


def download_model(name: str, cache: Path, min_free_bytes: int, stall_seconds: float = STALL_SECONDS) -> Path:
    """Return the folder in the Hugging Face cache that the model's files have been fetched to; raises `HubError`."""
    require_room(f"fetching {name}", sum(sizes("model", name, MODEL_FILES).values()), cache, min_free_bytes)
    command = [sys.executable, "-m", "registry.hub_download", name]
    # Its input is a pipe that ends when this process does, and the child with it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stall = Stall(process.pid, stall_seconds)
        try:
            while True:
                try:
                    process.wait(POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if stall.has_stalled():
                        raise HubError(f"nothing of it has come for {stall_seconds:g} s") from None
                    require_room(f"what is left of {name}", 0, cache, min_free_bytes)
        finally:
            process.kill()
        assert process.stdout is not None
        answer = process.stdout.read()
    try:
        found = json.loads(answer)
    except ValueError as error:
        raise HubError(f"the download ended with {process.returncode}") from error
    if "error" in found:
        raise HubError(found["error"])
    return Path(found["folder"])


def first_line(error: BaseException) -> str:
    """Return the start of a library's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _written_bytes(pid: int) -> int:
    """Return how much the process has written so far, to files and pipes; 0 where that can't be told."""
    try:
        fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(fields["wchar"])
    except (OSError, KeyError, ValueError):
        return 0


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f}"


def cache_folder() -> Path:
    """Return the Hugging Face cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(os.path.expanduser(HF_HUB_CACHE))  # noqa: PTH111 - a text that may be relative
