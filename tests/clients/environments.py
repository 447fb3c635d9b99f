"""Environments of the clients: made on demand under `.clients/`, anew when a client's pins change."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PINS = HERE / "pins"
ENVIRONMENTS = ROOT / ".clients"
INSTALL_SECONDS = 1200
STAMP = "pins"
"""The file in an environment that tells which pins it was made of."""


BORROWING = ("guidellm", "lm-eval")
"""Environments that find the project's packages beside their own: torch is 2 GB, and lm-eval is the project's."""


@dataclass(frozen=True)
class Client:
    """A client, the distribution whose version the table shows, and where it is installed.

    `home` is the name of its pins, or none for the project's own environment.
    """

    name: str
    distribution: str
    home: str | None

    @property
    def in_node(self) -> bool:
        return self.home == "node"

    def version(self) -> str:
        """Return the installed version, as the environment tells it."""
        if self.in_node:
            script = "console.log(JSON.parse(require('fs').readFileSync(process.argv[1])).version)"
            manifest = ENVIRONMENTS / "node" / "node_modules" / self.distribution / "package.json"
            command = ["node", "-e", script, str(manifest)]
        else:
            script = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
            command = [str(self.python()), "-c", script, self.distribution]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def python(self) -> Path:
        """Return the interpreter of a client for Python."""
        return Path(sys.executable) if self.home is None else ENVIRONMENTS / self.home / "bin" / "python"

    def command(self) -> list[str]:
        """Return what runs the client's driver; its environment is made first where it is not there."""
        make_environment(self.home)
        if self.in_node:
            # Node looks for packages beside the file that imports them.
            drivers = ENVIRONMENTS / "node" / "run"
            shutil.copytree(HERE, drivers, dirs_exist_ok=True, ignore=lambda _, names: _all_but_modules(names))
            return ["node", str(drivers / "drivers" / f"{self.name}.mjs")]
        # -P: a driver has its client's name, and must not be imported in its place.
        return [str(self.python()), "-P", str(HERE / "drivers" / f"{self.name}.py")]


def make_environment(home: str | None) -> None:
    """Install the pins of that name, exactly and without resolving anything, unless that has been done."""
    if home is None:
        return
    folder, pins = ENVIRONMENTS / home, PINS / f"{home}.txt"
    manifest = PINS / "node" / "package.json"
    wanted = hashlib.sha256((manifest if home == "node" else pins).read_bytes()).hexdigest()
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text().strip() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if home == "node":
        shutil.copy(manifest, folder)
        _run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], cwd=folder)
    else:
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        _run([*pip, "--no-deps", "-r", str(pins)])
        if home in BORROWING:
            # After its own packages, and so for those alone that it lacks.
            own, projects = (sysconfig.get_path("purelib", vars={"base": str(base)}) for base in (folder, sys.prefix))
            Path(own, "projects.pth").write_text(projects)
    stamp.write_text(wanted)


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def _all_but_modules(names: list[str]) -> list[str]:
    return [name for name in names if name != "drivers" and not name.endswith(".mjs")]
