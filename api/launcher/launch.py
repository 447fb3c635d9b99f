"""Run a command that the kernel ends when its parent ends: `launch.py SIGNAL PARENT -- COMMAND…`.

Run as a script without site-packages (`python -IS`), so that it costs 10 ms. PARENT is a process id, or
`leader` for the leader of the session, which the process supervisor is to all services.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    signal_name, parent, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit("usage: launch.py SIGNAL PARENT -- COMMAND…")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.Signals[signal_name])
    expected = os.getsid(0) if parent == "leader" else int(parent)
    if os.getppid() != expected:
        sys.exit(f"The parent {expected} ended before {command[0]} could start.")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
