"""How records are called at OpenAI's endpoints: a prefix and the record's own id."""

import re

from api.errors import NotFound

FILE, RESULTS, JOB, EVENT, CHECKPOINT = "file-", "file-results-", "ftjob-", "ftevent-", "ftckpt-"
WEBHOOK, DELIVERY = "webhook-", "delivery-"
NUMBER = "[1-9][0-9]{0,8}"
_KINDS = {FILE: "file", RESULTS: "file", JOB: "fine-tuning job", WEBHOOK: "webhook endpoint"}


def number_of(name: str, prefix: str) -> int:
    """Return the record's own id in a name such as `ftjob-7`; raises `NotFound` where it can't be one."""
    if not is_of(name, prefix):
        kind = _KINDS[prefix]
        raise NotFound(f"There is no {kind} '{name}'; the ids of {kind}s are such as {prefix}1.")
    return int(name.removeprefix(prefix))


def is_of(name: str, prefix: str) -> bool:
    """Return whether a name is one of these records, there or not."""
    return re.fullmatch(f"{prefix}{NUMBER}", name) is not None


def cursor(after: str | None) -> int | None:
    """Return the number at the end of the id that a page begins after; the endpoint has checked its shape."""
    return None if after is None else int(after.rpartition("-")[2])
