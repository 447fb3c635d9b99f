"""What is checked before anything starts; each check fails with one sentence that says what to do."""

import errno
import importlib
import shutil
import socket
import sqlite3
import sys
import tempfile
from pathlib import Path

import psutil

from configs.settings import Settings

MINIMUM_FREE_BYTES = 2 * 1024**3
MINIMUM_SQLITE = (3, 24, 0)
"""What Prefect's store needs."""


class PreflightError(Exception):
    """The platform can't start here; the message says why and what to do."""


def check_python() -> None:
    """Refuse a Python that was built without what the services import, or with an SQLite too old for them."""
    for module in ("ssl", "ctypes", "bz2", "lzma"):
        try:
            importlib.import_module(module)
        except ImportError:
            raise PreflightError(
                f"This Python ({sys.executable}) was built without {module}: "
                "install another Python and run `make clean run PYTHON=/path/to/python3`."
            ) from None
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise PreflightError(
            f"This Python ({sys.executable}) has SQLite {sqlite3.sqlite_version}, but 3.24 or newer is needed: "
            "install another Python and run `make clean run PYTHON=/path/to/python3`."
        )


def check_writable(folder: Path) -> None:
    """Create the data folder and refuse one in which no file can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PreflightError(
            f"The data folder {folder} can't be written ({error.strerror}): "
            "make it writable, or set LLM_PLATFORM_DATA_DIR to another folder."
        ) from error


def check_disk(folder: Path, minimum_free_bytes: int = MINIMUM_FREE_BYTES) -> None:
    """Refuse a disk on which checkpoints and databases would soon fail to be written."""
    free = shutil.disk_usage(folder).free
    if free < minimum_free_bytes:
        raise PreflightError(
            f"The disk of the data folder {folder} has {free / 1024**3:.1f} GiB free, but at least "
            f"{minimum_free_bytes / 1024**3:.1f} GiB is needed: free some space, or set LLM_PLATFORM_DATA_DIR "
            "to a folder on another disk."
        )


def check_bindings(settings: Settings) -> None:
    """Refuse an API that anybody who reaches this machine could use."""
    if not (settings.loopback or settings.api_keys or settings.force_open):
        raise PreflightError(
            f"The API would be open to anybody at {settings.host!r}: make a key by `llm-platform keys new` and set "
            "LLM_PLATFORM_API_KEYS, bind to 127.0.0.1, or insist by --force-open (LLM_PLATFORM_FORCE_OPEN=true)."
        )


def check_ports(settings: Settings) -> None:
    """Refuse a port that is taken, or given to two services."""
    ports = {
        "api_port": ("the API", settings.host),
        "mlflow_port": ("MLflow", settings.keyless_host),
        "engine_port": ("the inference engine", "127.0.0.1"),
        "prefect_port": ("Prefect", settings.keyless_host),
    }
    users: dict[int, str] = {}
    for field, (purpose, host) in ports.items():
        port, variable = getattr(settings, field), f"LLM_PLATFORM_{field.upper()}"
        if port in users:
            raise PreflightError(
                f"Port {port} is given to both {users[port]} and {purpose}: set {variable} to another one."
            )
        users[port] = purpose
        check_port(host, port, purpose, variable)


def check_port(host: str, port: int, purpose: str, variable: str) -> None:
    """Refuse an address that can't be bound, naming the process that holds it where that can be known."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PreflightError(
                    f"Port {port}, needed for {purpose}, is in use{_holder(port)}: "
                    f"stop that process, or set {variable} to a free port."
                ) from error
            high = f"set {variable} to one above 1023"
            remedy = high if error.errno == errno.EACCES else "check LLM_PLATFORM_HOST"
            raise PreflightError(
                f"Port {port} of {host}, needed for {purpose}, can't be bound ({error.strerror}): {remedy}."
            ) from error


def _holder(port: int) -> str:
    """` by NAME (process PID)` of the process that listens there, or nothing if it is not ours to see."""
    try:
        for connection in psutil.net_connections("inet"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    return ""
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return ""
    return ""


def check_all(settings: Settings) -> None:
    """Run every check; raises PreflightError at the first that fails."""
    check_python()
    check_bindings(settings)
    check_writable(settings.data_dir)
    check_disk(settings.data_dir)
    check_ports(settings)
