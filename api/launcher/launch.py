"""Run a command that the kernel ends when its parent ends: `launch.py SIGNAL PARENT -- COMMAND…`.

Run as a script without site-packages (`python -IS`), so that it costs 10 ms. PARENT is a process id, or
`leader` for the leader of the session, which the process supervisor is to all services.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Get a signal from the kernel when the parent process ends; exit if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit(f"The parent {parent} ended before this process could start.")


def main() -> None:
    """Tie this process to its parent, then become the command."""
    signal_name, parent, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit("usage: launch.py SIGNAL PARENT -- COMMAND…")
    end_with_parent(signal.Signals[signal_name], os.getsid(0) if parent == "leader" else int(parent))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
