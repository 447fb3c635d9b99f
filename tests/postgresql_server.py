"""A PostgreSQL of the tests' own: Debian's package (`make postgresql`), a fresh cluster on a free port of loopback.

The wheel that other tests use lacks `pg_trgm`, which Prefect's tables need.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

DEBIAN_PROGRAMS = "/usr/lib/postgresql"
UNPRIVILEGED = "postgres"
"""Whom the server runs as where the tests run as root: it refuses to be root itself."""
COMMAND_SECONDS = 120


def find_programs() -> Path | None:
    """Return the folder with `initdb` and `pg_ctl`, the newest version's; None where no server is installed."""
    versions = (path for path in Path(DEBIAN_PROGRAMS).glob("*") if (path / "bin" / "pg_ctl").exists())
    newest = max(versions, key=lambda path: float(path.name), default=None)
    if newest is not None:
        return newest / "bin"
    found = shutil.which("pg_ctl")
    return Path(found).resolve().parent if found else None


class PostgresqlServer:
    """A cluster in a temporary folder; anybody on this machine may connect, as `postgres`."""

    def __init__(self, programs: Path, port: int) -> None:
        """Make the cluster and start it."""
        self.port = port
        self._programs = programs
        # Not pytest's folder: that is closed to everybody but its owner.
        self._folder = Path(tempfile.mkdtemp(prefix="llm-platform-postgresql-"))
        if os.getuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._data = self._folder / "data"
        self._call("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c max_connections=300"
        log = self._folder / "log"
        self._call("pg_ctl", "start", "-w", "-t", str(COMMAND_SECONDS), "-D", self._data, "-l", log, "-o", options)

    def stop(self) -> None:
        """Stop the server: every connection is cut, and what was committed stays."""
        self._call("pg_ctl", "stop", "-w", "-m", "fast", "-D", self._data)

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        self._call("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name)

    def url(self, name: str, driver: str = "psycopg", password: str = "") -> str:
        """Return the SQLAlchemy URL of a database, with a password that nobody asks for."""
        return f"postgresql+{driver}://postgres{password and ':' + password}@127.0.0.1:{self.port}/{name}"

    def dump(self, name: str, *options: str) -> str:
        """Return a database as SQL."""
        file = self._folder / f"{name}.sql"
        address = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres")
        self._call("pg_dump", *address, "-f", file, *options, name)
        return file.read_text()

    def close(self) -> None:
        """Stop the server and delete the cluster."""
        self._call("pg_ctl", "stop", "-m", "immediate", "-D", self._data, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, program: str, *arguments: str | Path, check: bool = True) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        if os.getuid() == 0:
            command = ["runuser", "-u", UNPRIVILEGED, "--", *command]
        # Not a pipe: the server inherits it, and a reader would wait for the server's end.
        with (self._folder / "commands").open("a+") as output:
            done = subprocess.run(
                command, check=False, stdout=output, stderr=output, timeout=2 * COMMAND_SECONDS, cwd=self._folder
            )
            if check and done.returncode != 0:
                output.seek(0)
                raise AssertionError(f"{program} ended with {done.returncode}:\n{output.read()}")
