"""A wall clock for the platform's processes alone, which may be wrong, jump, or run faster than the machine's."""

import subprocess
import sys
from pathlib import Path

LIBRARY = Path(__file__).with_suffix(".c")


class WallClock:
    """What is preloaded into processes so that their wall clock is wrong by a number of seconds, set at any time."""

    def __init__(self, folder: Path) -> None:
        """Compile it into the folder; raises `OSError` where there is no C compiler."""
        library = folder / "wall_clock.so"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(LIBRARY)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            raise OSError(f"the wall clock can't be compiled: {done.stderr}")
        self._file = folder / "clock"
        self._file.write_bytes(bytes(8))
        self.wrong_by = 0
        """Seconds, as last set."""
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(self._file)}
        """Of the processes that are to have it."""

    def set(self, wrong_by: int) -> None:
        """Let the clock be wrong by so many seconds."""
        self.wrong_by = wrong_by
        with self._file.open("r+b") as file:
            file.write(wrong_by.to_bytes(8, sys.byteorder, signed=True))
