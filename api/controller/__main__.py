"""The controller's process: `python -m api.controller`."""

import asyncio
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from api.controller.controller import Controller
from configs.settings import Settings, get_settings
from registry.database import upgrade

THREADS = 16
"""Its loops wait for databases in threads of their own, which no request can take."""


async def run(settings: Settings) -> None:
    """Run the loops until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="controller"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Controller(settings).run(stop)


def main() -> None:
    """Run the controller of this machine."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = get_settings()
    upgrade(settings.platform_database_url)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
