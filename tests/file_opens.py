"""Counts how often files are opened, by any process and any library: the kernel tells it (inotify)."""

import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_OPEN = 0x20
_EVENT = struct.Struct("iIII")


@contextmanager
def counted_opens(*files: Path) -> Iterator[Counter[Path]]:
    """Yield how often each of the files was opened in the block; it is filled when the block ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    opens: Counter[Path] = Counter()
    try:
        watches = {libc.inotify_add_watch(descriptor, os.fsencode(file), IN_OPEN): file for file in files}
        assert -1 not in watches, os.strerror(ctypes.get_errno())
        yield opens
        try:
            while content := os.read(descriptor, 2**16):
                while content:
                    watch, mask, _, length = _EVENT.unpack_from(content)
                    content = content[_EVENT.size + length :]
                    opens[watches[watch]] += bool(mask & IN_OPEN)
        except BlockingIOError:
            pass
    finally:
        os.close(descriptor)
