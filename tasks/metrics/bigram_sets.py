"""distinct-2 of many sets of responses at once, as array operations instead of sets of strings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class BigramSets:
    """Which bigrams are in which response."""

    def __init__(self, bigrams: Sequence[Sequence[str]]) -> None:
        """Take each response's bigrams."""
        numbers: dict[str, int] = {}
        places = sorted(
            {
                (numbers.setdefault(bigram, len(numbers)), response)
                for response, of_one in enumerate(bigrams)
                for bigram in of_one
            }
        )
        self.tokens = np.array([len(of_one) for of_one in bigrams], dtype=np.int64)
        # One entry for each (bigram, response) that occurs, those of a bigram side by side.
        self._bigram = np.array([bigram for bigram, _ in places], dtype=np.int64)
        self._response = np.array([response for _, response in places], dtype=np.int64)
        self._first = np.searchsorted(self._bigram, np.arange(len(numbers)))

    @property
    def entries(self) -> int:
        """How many numbers a set costs to measure, beyond one for each response."""
        return len(self._bigram)

    def distinct_2(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return distinct-2 of each set of responses; `chosen` is (sets, responses), and sets have no duplicates."""
        if not self.entries:
            return np.zeros(len(chosen))
        # Eight sets to a byte: five times as fast as a byte for each.
        packed = np.packbits(chosen.T, axis=1)[self._response]
        in_set = np.unpackbits(np.bitwise_or.reduceat(packed, self._first, axis=0), axis=1, count=len(chosen))
        return _ratio(in_set.sum(axis=0, dtype=np.int64), chosen @ self.tokens)

    def without_each(self) -> NDArray[np.float64]:
        """Return, for each response, distinct-2 of all the others."""
        responses = np.bincount(self._bigram, minlength=len(self._first))
        only_here = np.bincount(self._response[responses[self._bigram] == 1], minlength=len(self.tokens))
        return _ratio(len(self._first) - only_here, self.tokens.sum() - self.tokens)


def _ratio(unique: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return unique ÷ tokens; where there are no tokens there is nothing unique either, and distinct-2 is 0."""
    return unique / np.maximum(tokens, 1)
