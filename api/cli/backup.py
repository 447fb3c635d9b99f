"""Backups of this machine's platform: make one while it runs, and restore one while it does not."""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.failures import CommandFailed
from api.cli.terminal import note, say
from api.version import VERSION


def backup(
    target: Annotated[Path, typer.Argument(help="Folder to make, on another disk at best")],
    previous: Annotated[
        Path | None,
        typer.Option("--previous", help="An earlier backup, on the same disk: files that it has become hard links"),
    ] = None,
) -> None:
    """Copy the databases and all files that they name, while jobs run (docs/operations.md)."""
    # Imported here, as below: other commands need none of it.
    from registry.backup import make_backup

    manifest = _carried_out(lambda settings: make_backup(settings, target, VERSION, previous, note))
    say(f"{target}: {len(manifest.files)} files, as of {manifest.created_at} UTC")


def restore(
    source: Annotated[Path, typer.Argument(help="Folder that `llm-platform backup` has made")],
    force: Annotated[
        bool, typer.Option("--force", help="Move what the data folder holds aside; overwrite PostgreSQL's databases")
    ] = False,
) -> None:
    """Put a backup into the data folder of a platform that does not run; unfinished jobs go on at its next start."""
    from api.launcher.lock import instance_lock
    from registry.restore import restore_backup

    def restored(settings: Any) -> int:
        with instance_lock(settings.data_dir / "run" / "lock", note):
            return restore_backup(settings, source, force, note)

    again = _carried_out(restored)
    say(f"Restored. {again} unfinished jobs and evaluations go on, or stay paused, when the platform is started.")


def _carried_out(action: Any) -> Any:
    """Return what the action returns for this machine's settings; its own errors end the command with a sentence."""
    from api.launcher.preflight import PreflightError
    from api.launcher.up import read_settings
    from registry.backup_files import BackupError
    from registry.schema import SchemaError
    from registry.stores import StoreError

    try:
        return action(read_settings())
    except (BackupError, SchemaError, StoreError, PreflightError, OSError) as error:
        raise CommandFailed(str(error)) from error
