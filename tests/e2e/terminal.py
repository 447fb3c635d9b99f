"""A command in a terminal of its own (a pty), as a person sees and interrupts it."""

import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

from tests.e2e.picture import save_picture

COMMAND = Path(sys.executable).with_name("llm-platform")
COLUMNS, ROWS = 120, 40


class Terminal:
    """`llm-platform ARGUMENTS` on a terminal: what it shows, what is typed, and how it ends."""

    def __init__(self, *arguments: str, url: str) -> None:
        self._screen, child = pty.openpty()
        ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environment = {**os.environ, "LLM_PLATFORM_URL": url, "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        # A test run in the background of a shell ignores Ctrl-C, and its children would.
        self._process = subprocess.Popen(
            ["/usr/bin/env", "--default-signal=INT", "setsid", "--ctty", "--wait", str(COMMAND), *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env=environment,
        )
        os.close(child)
        self.raw = ""
        self._command = shlex.join(("llm-platform", *arguments))

    @property
    def text(self) -> str:
        """What has been shown, without control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw).replace("\r", "\n")

    def expect(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Return the match once the terminal has shown it."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.text)) is None:
            assert self._read(deadline), f"{pattern!r} did not appear:\n{self.text}"
        return found

    def picture(self, folder: Path | None, name: str) -> None:
        """Save what is shown as `command-line-NAME.svg`, if there is a folder for it."""
        if folder is not None:
            save_picture(folder / f"command-line-{name}.svg", self._command, self.raw, COLUMNS)

    def type(self, keys: str) -> None:
        """Press keys: `\\x03` is Ctrl-C, `\\x04` Ctrl-D, which the terminal turns into what they mean."""
        os.write(self._screen, keys.encode())

    def end(self, seconds: float = 60) -> int:
        """Return the exit code once the command has ended; all that it has shown is in `text` then."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        os.close(self._screen)
        try:
            return self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            raise

    def _read(self, deadline: float) -> bool:
        """Take what is shown next; False once nothing more comes, as the command has ended or time is up."""
        ready, _, _ = select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            shown = os.read(self._screen, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.raw += shown.decode(errors="replace")
        return bool(shown)
