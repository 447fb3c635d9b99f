"""Splits examples into training and held-out rows by their content, never by their place."""

from collections.abc import Sequence

from tasks.data.examples import DatasetError, Example

HASH_SPAN = 2**256


def split_by_hash(examples: Sequence[Example], held_out_fraction: float = 0.1) -> tuple[list[Example], list[Example]]:
    """Return (train, held out): a row is held out when its hash lies in the lowest `held_out_fraction` of hashes.

    So a row falls on the same side whatever other rows come with it, and equal rows stay together. Training rows keep
    their order; held-out rows come in hash order, so that the first N of them are a stable random sample. The size of
    the held-out side is `held_out_fraction` of the rows only on average; where a side would stay empty it gets the one
    row nearest to the threshold.

    Raises DatasetError for fewer than two different rows, or for a fraction that is not between 0 and 1.
    """
    if not 0 < held_out_fraction < 1:
        raise DatasetError(f"held_out_fraction is {held_out_fraction}; it must lie between 0 and 1, both excluded")
    hashed = [(example.content_hash, example) for example in examples]
    distinct = {digest for digest, _ in hashed}
    if len(distinct) < 2:
        raise DatasetError(
            f"the data set has {len(distinct)} different rows in {len(examples)}; at least 2 are needed, "
            "one to train on and one to hold out"
        )
    held_digests = {digest for digest in distinct if int(digest, 16) < held_out_fraction * HASH_SPAN}
    if not held_digests:
        held_digests = {min(distinct)}
    elif held_digests == distinct:
        held_digests = distinct - {max(distinct)}
    train = [example for digest, example in hashed if digest not in held_digests]
    held_out = sorted((pair for pair in hashed if pair[0] in held_digests), key=lambda pair: pair[0])
    return train, [example for _, example in held_out]
