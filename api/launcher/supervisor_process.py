"""The process supervisor's process: supervisord, which goes on while its log can't be written.

What supervisord can't write to its log it reports on the standard error, which is a file on the same disk: the report
of a full disk would be what ends it, and every service with it.
"""

import sys
from contextlib import suppress

from supervisor import supervisord


class ForgivingStream:
    """A text stream that leaves out what can't be written."""

    def write(self, text: str) -> int:
        """Write the text, if that is possible."""
        with suppress(OSError):
            sys.__stderr__.write(text)  # type: ignore[union-attr]
        return len(text)

    def flush(self) -> None:
        """Write what is waiting, if that is possible."""
        with suppress(OSError):
            sys.__stderr__.flush()  # type: ignore[union-attr]


def main() -> None:
    """Run supervisord with the arguments of this process."""
    sys.stderr = ForgivingStream()
    supervisord.main()


if __name__ == "__main__":
    main()
