"""Retention by hand: what may go of this machine's data folder, and its removal."""

from typing import Annotated

import typer

from api.cli.failures import CommandFailed
from api.cli.options import AsJson
from api.cli.terminal import print_json, print_table, say

UNITS = ("B", "kB", "MB", "GB", "TB")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go, with its size")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what nothing needs any more, as every night. It works on the data folder (LLM_PLATFORM_DATA_DIR)."""
    # Imported here: other commands need none of it.
    from api.launcher.up import read_settings
    from registry.database import Database
    from tasks.retention.collect import AlreadyRunning, collect

    settings = read_settings()
    if settings.database_url is None and not (settings.data_dir / "platform.db").is_file():
        raise CommandFailed(f"{settings.data_dir} is no data folder of the platform: name it by LLM_PLATFORM_DATA_DIR.")
    database = Database(settings.platform_database_url)
    try:
        report = collect(settings, database, dry_run=dry_run)
    except AlreadyRunning as error:
        raise CommandFailed(str(error)) from error
    finally:
        database.close()
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "removed": [
                    {"rule": one.rule, "what": one.what, "count": one.count, "bytes": one.size}
                    for one in report.removed
                ],
                "count": report.count,
                "freed_bytes": report.freed_bytes,
                "failures": report.failures,
            }
        )
    else:
        if report.removed:
            print_table(("RULE", "WHAT", "SIZE"), [(one.rule, one.what, shown(one.size)) for one in report.removed])
        verb = "would go" if dry_run else "removed"
        say(f"{report.count} files, folders, rows and runs {verb}, {shown(report.freed_bytes)} of the disk.")
    if report.failures:
        raise CommandFailed(f"{len(report.failures)} rules could not be followed: {'; '.join(report.failures)}")


def shown(size: int) -> str:
    """Return bytes as people read them: `1.5 MB`."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 else f"{value:.1f} {UNITS[unit]}"
