"""The real controller, in a thread of the test's process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api.controller.controller import Controller
from configs.settings import Settings

STOP_SECONDS = 30


@contextmanager
def running_controller(settings: Settings) -> Iterator[Controller]:
    """Run a controller over these settings, as `python -m api.controller` does; yield it once it leads."""
    controller = Controller(settings)
    began, ended = threading.Event(), []

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        ended.append(lambda: loop.call_soon_threadsafe(stop.set))
        began.set()
        await controller.run(stop)

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="controller")
    thread.start()
    assert began.wait(STOP_SECONDS)
    try:
        yield controller
    finally:
        ended[0]()
        thread.join(STOP_SECONDS)
        assert not thread.is_alive()
