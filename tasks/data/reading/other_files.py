"""Files that are no data set in an accepted format, recognised by their first bytes, and what to do with each."""

import codecs
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tasks.data.examples import DatasetError
from tasks.data.reading.records import BYTE_ORDER_MARK, not_utf8, shortened

ACCEPTED = "JSON lines, JSON, CSV, Parquet, Arrow and plain text are accepted"

_ARCHIVES = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"PK\x05\x06": "a zip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
    b"Rar!\x1a\x07": "a rar file",
}
_OTHERS = {
    b"%PDF": "a PDF file",
    b"\x89PNG": "an image (PNG)",
    b"\xff\xd8\xff": "an image (JPEG)",
    b"GIF8": "an image (GIF)",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"FEA1": "a Feather file of version 1; write it as version 2, or as Parquet",
    b"PARE": "an encrypted Parquet file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x93NUMPY": "a NumPy file",
    b"\x7fELF": "a program",
    **{
        b"\x80" + bytes([protocol]): "a Python pickle, which is never read because it can run code"
        for protocol in range(2, 6)
    },
}
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(rb"\s*<(?:\?xml\b|Error>\s*<Code>|[\w:.-]+\s[^<>]*\bxmlns\b)")
_HEADLINE = re.compile(rb"<(title|h1|Message)\b[^<>]*>\s*([^<]{1,200})", re.IGNORECASE)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_SIZE = re.compile(rb"^size (\d{1,18})$", re.MULTILINE)
_REFUSED = "was the download refused?"
# What servers answer instead of a file: raw.githubusercontent.com, the Hugging Face hub, proxies.
_ERROR_TEXTS = frozenset(
    {
        "404: not found",
        "access denied",
        "bad gateway",
        "entry not found",
        "forbidden",
        "internal server error",
        "invalid username or password",
        "not found",
        "repository not found",
        "service unavailable",
        "unauthorized",
    }
)
_ERROR_SAID = ("error", "errors", "message", "detail", "error_description")
_ERROR_KEYS = frozenset(
    {*_ERROR_SAID, "code", "documentation_url", "path", "reason", "request_id", "requestId", "status", "statusCode"}
    | {"status_code", "success", "timestamp", "title", "type"}
)


def require_readable_file(path: Path) -> None:
    """Raise DatasetError unless `path` is a plain file with something in it."""
    try:
        found = path.lstat()
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        raise DatasetError(f"{path.name} is a folder; name one file")
    if stat.S_ISLNK(found.st_mode):
        raise DatasetError(f"{path.name} is a symbolic link; name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise DatasetError(f"{path.name} is no plain file; {ACCEPTED}")
    if found.st_size == 0:
        raise DatasetError(f"the file is empty; {ACCEPTED}")


def refuse_other_kinds(head: bytes) -> None:
    """Raise DatasetError if these first bytes of a file belong to an archive, a workbook or the like."""
    if head.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in head:
        raise DatasetError("this is an Office file, such as an Excel workbook; export it as CSV")
    if head[257:262] == b"ustar":
        raise DatasetError(f"this is a tar file; send the file in it. {ACCEPTED}")
    for start, kind in _ARCHIVES.items():
        if head.startswith(start):
            raise DatasetError(f"this is {kind}; send it uncompressed. {ACCEPTED}")
    for start, kind in _OTHERS.items():
        if head.startswith(start):
            raise DatasetError(f"this is {kind}; {ACCEPTED}")


def refuse_answers(head: bytes, is_whole: bool) -> None:
    """Raise DatasetError if this beginning of a file is what a server or Git gives in a file's place."""
    text = head.removeprefix(BYTE_ORDER_MARK)
    kind = "an HTML page" if _HTML.match(text) else "an XML document" if _XML.match(text) else None
    if kind:
        headline = _HEADLINE.search(text)
        said = f" ({shortened(headline[2].decode('utf-8', 'replace').strip())})" if headline else ""
        raise DatasetError(f"this is {kind}{said}, not a data set; {_REFUSED} {ACCEPTED}")
    if text.startswith(_LFS_POINTER):
        size = _LFS_SIZE.search(text)
        of = f" of {int(size[1]):,} bytes" if size else ""
        raise DatasetError(f"this is a Git LFS pointer to a file{of}, not the file itself; fetch it with git lfs pull")
    answer = text.strip().rstrip(b".").decode("utf-8", "replace") if is_whole and len(text) < 100 else ""
    if answer.lower() in _ERROR_TEXTS:
        raise DatasetError(f"this is a server's error ({shortened(answer)}), not a data set; {_REFUSED}")


def refuse_error_object(value: Any, known_columns: Collection[str]) -> None:
    """Raise DatasetError if a whole file's only JSON value is a server's report of an error."""
    if not isinstance(value, dict) or not _ERROR_KEYS.issuperset(value) or not value.keys().isdisjoint(known_columns):
        return
    said = next((value[key] for key in _ERROR_SAID if value.get(key)), None)
    if said is not None:
        raise DatasetError(f"this is a server's error ({shortened(said)}), not a data set; {_REFUSED}")


def refuse_other_encodings(head: bytes, is_whole: bool) -> None:
    """Raise DatasetError if these first bytes of a text are not UTF-8, naming the encoding or the byte."""
    wide = next((name for mark, name in _WIDE_MARKS.items() if head.startswith(mark)), None)
    if wide or (head[:400].count(0) * 3 > len(head[:400]) and _is_every_other_nul(head[:400])):
        raise DatasetError(f"the text is in {wide or 'UTF-16'}; save it as UTF-8")
    if b"\0" in head:
        raise DatasetError(f"byte {head.index(0) + 1} is NUL, so this is no text; {ACCEPTED}")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=is_whole)
    except UnicodeDecodeError as error:
        line = head.count(b"\n", 0, error.start) + 1
        place = f"byte {error.start + 1} of the file, on line {line},"
        raise DatasetError(not_utf8(head[error.start], place)) from None


def _is_every_other_nul(head: bytes) -> bool:
    return not any(head[::2]) or not any(head[1::2]) or max(head[::2].count(0), head[1::2].count(0)) * 5 > len(head) * 2
