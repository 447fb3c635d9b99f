"""The command line: `llm-platform`, a client of the API, and `llm-platform up`, which runs the platform."""


def main() -> int:
    """Run the command line; returns its exit code (docs/command-line.md)."""
    # Imported here: every module of this package imports the package first.
    from api.cli.program import run

    return run()
