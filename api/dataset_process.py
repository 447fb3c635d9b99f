"""Runs `tasks.data.ingest`, the process that reads data sets: a request in, an answer out, so many at once, so long.

A hostile file can hurt nothing but that process; a file or a hub that takes for ever holds nobody else up.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from api.errors import ServiceDown
from api.places import Places
from configs.dataset import UPLOAD
from configs.settings import Settings
from registry import hub
from registry.fetching import Stall
from registry.tables import Dataset
from tasks.data.local_files import local_file

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "tasks.data.ingest")
FETCHES_AT_ONCE = 4
STALL_POLL_SECONDS = 1.0
COPIES_OF_A_DOWNLOAD = 3
"""What the hub has, the library's own copy of it, and the rows as one file."""

Answer = dict[str, Any]


class DatasetProcess:
    """Starts the processes of one API process or controller. Of one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._previews = Places(
            settings.previews_at_once, settings.preview_queue_length, settings.preview_timeout_seconds, "previews"
        )
        self._fetches = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def preview(self, request: Answer) -> Answer:
        """Return the answer to a preview; raises `Busy` where too many wait, and `ServiceDown` if it takes too long."""
        with self._previews.admission(1):
            async with self._previews.one():
                return await self._ask(request | {"action": "preview"}, self._settings.preview_timeout_seconds)

    async def check_format(self, request: Answer) -> Answer:
        """Return whether a chat format writes conversations; raises `Busy` where too many wait."""
        limit = self._settings.preview_timeout_seconds
        with self._previews.admission(1):
            async with self._previews.one():
                try:
                    return await self._ask(request | {"action": "check_format"}, limit, "the chat template")
                except ServiceDown:
                    return _refusal(f"chat_template takes longer than {limit:g} s to write a few short conversations")

    async def ingest(self, request: Answer) -> Answer:
        """Return the answer to the checks of a data set; raises `ServiceDown` if they take too long."""
        return await self._ask(request | {"action": "ingest"}, self._settings.ingest_timeout_seconds)

    async def fetch(self, dataset: Dataset) -> Answer:
        """Bring a data set of the hub, if it is one, to where an upload would lie; not `ok` where that can't be done.

        Ended when nothing comes any more for `hub_stall_seconds`, or when the disk has too little room.
        """
        if dataset.source == UPLOAD or local_file(dataset.source, self._settings.local_datasets_dir) is not None:
            return {"ok": True}
        if not self._settings.allow_hub:
            folder = self._settings.local_datasets_dir
            return _refusal(f"there is no file {dataset.source} in {folder}, and fetching from the hub is turned off")
        async with self._fetches:
            try:
                await asyncio.to_thread(self._require_room, dataset.source)
                described = {"uid": dataset.uid, "source": dataset.source, "settings": dict(dataset.settings)}
                return await self._ask({"action": "fetch", "dataset": described}, None)
            except hub.HubError as error:
                return _refusal(f"{dataset.source} can't be fetched: {error}")
            finally:
                await asyncio.to_thread(shutil.rmtree, _work_folder(self._settings, dataset.uid), ignore_errors=True)

    def _require_room(self, name: str) -> None:
        needed = COPIES_OF_A_DOWNLOAD * sum(hub.sizes("dataset", name).values())
        folder = self._settings.datasets_dir
        hub.require_room(f"fetching {name}", needed, folder, self._settings.min_free_disk_bytes)

    async def _ask(self, request: Answer, seconds: float | None, what: str = "the data set") -> Answer:
        """Return the child's answer; a child that dies is an answer too. Without `seconds` it may take its time.

        Raises `ServiceDown` after `seconds`, or `HubError` where a child without a limit stalls.
        """
        body = json.dumps(request | {"settings": self._settings.model_dump(mode="json")}).encode()
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # it has a child of its own, which ends with it
        )
        try:
            async with asyncio.timeout(seconds):
                if seconds is None:
                    output = await self._watched(process, body)
                else:
                    output, _ = await process.communicate(body)
        except TimeoutError as error:
            message = f"Reading {what} took longer than {seconds:g} s, the most that it may; try again."
            raise ServiceDown("datasets", message) from error
        finally:
            await _end(process)
        if process.returncode != 0 or not output:
            logger.error("tasks.data.ingest ended with %s", process.returncode)
            limit = self._settings.ingest_memory_gb
            reason = f"{what} could not be read within {limit:g} GB of memory (LLM_PLATFORM_INGEST_MEMORY_GB)"
            return _refusal(reason)
        answer: Answer = json.loads(output)
        return answer

    async def _watched(self, process: asyncio.subprocess.Process, body: bytes) -> bytes:
        """Return the output of a process that goes on writing, somewhere; raises `HubError` for one that does not."""
        answer = asyncio.ensure_future(process.communicate(body))
        stall = Stall(process.pid, self._settings.hub_stall_seconds)
        try:
            while not (await asyncio.wait({answer}, timeout=STALL_POLL_SECONDS))[0]:
                if stall.has_stalled():
                    raise hub.HubError(f"nothing of it has come for {stall.seconds:g} s")
                floor = self._settings.min_free_disk_bytes
                hub.require_room("what is left of it", 0, self._settings.datasets_dir, floor)
            return answer.result()[0]
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave no process behind, whatever it is doing."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            logger.debug("the process had just ended")
        await process.wait()


def _work_folder(settings: Settings, uid: str) -> Path:
    return settings.uploads_dir / f"{uid}.fetched"


def _refusal(reason: str) -> Answer:
    return {"ok": False, "error": reason, "report": None}
