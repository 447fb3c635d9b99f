"""How a command fails: a sentence for stderr and an exit code."""

from typer import TyperException


class CommandFailed(TyperException):
    """What was asked for was tried and did not succeed, such as a job that fails while it is watched."""

    exit_code = 1


class WrongUsage(TyperException):
    """The command can't be carried out as it was given; typer's own errors of this kind have the same code."""

    exit_code = 2


class Unreachable(TyperException):
    """No platform answers, or it stopped to in the middle of an answer."""

    exit_code = 3


class Refused(TyperException):
    """The API said no, in the sentence that is shown."""

    exit_code = 4
