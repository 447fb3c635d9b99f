"""The metrics written down again from their definitions, slow and plain, to check the platform's against."""

import math
import re
from bisect import bisect_left
from collections import Counter

import numpy as np
from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

WORDS = """
the The a of is was it's don't value values returned Returns returning json.dumps(obj) x=1, 1,000.5
naïve 日本語 🦊 end. (see & &amp; U.S. list lists Listing -- [0] `str` strings
"""
VOCABULARY = np.array(WORDS.split())
FREQUENCIES = 1 / np.arange(1, len(VOCABULARY) + 1)


def random_texts(rng: np.random.Generator, count: int) -> tuple[list[str], list[str]]:
    """Responses and references that share words in about the same order; some are short, some empty."""
    responses, references = [], []
    for _ in range(count):
        reference = random_words(rng, int(rng.integers(1, 25)))
        kept = [word for word in reference if rng.random() < 0.8]
        replaced = [random_words(rng, 1)[0] if rng.random() < 0.2 else word for word in kept]
        spaces = rng.choice([" ", "  ", "\n"], p=[0.8, 0.1, 0.1])
        responses.append("" if rng.random() < 0.1 else str(spaces).join(replaced))
        references.append(" ".join(reference))
    return responses, references


def random_words(rng: np.random.Generator, count: int) -> list[str]:
    """As in any language, few words make up most of the text."""
    return rng.choice(VOCABULARY, size=count, p=FREQUENCIES / FREQUENCIES.sum()).tolist()


def spaced(text: str) -> str:
    """Each character by itself of the only words here whose script has no spaces."""
    return re.sub("[日本語]", r" \g<0> ", text)


def bleu(responses: list[str], references: list[str], *, effective_order: bool = False) -> float:
    """Papineni et al. 2002, with NIST's exponential smoothing."""
    tokenize = Tokenizer13a()
    pairs = [
        (tokenize(spaced(a)).split(), tokenize(spaced(b)).split()) for a, b in zip(responses, references, strict=True)
    ]
    matched, total = [0] * 4, [0] * 4
    for response, reference in pairs:
        for order in range(4):
            ours, theirs = (
                Counter(tuple(words[at : at + order + 1]) for at in range(len(words) - order))
                for words in (response, reference)
            )
            matched[order] += (ours & theirs).total()
            total[order] += ours.total()
    if not any(matched):
        return 0.0
    orders = [order for order in range(4) if total[order]]
    if len(orders) < 4 and not effective_order:
        return 0.0
    product, doublings = 1.0, 0
    for order in orders:
        if matched[order] == 0:
            doublings += 1
            product *= 1 / (2**doublings * total[order])
        else:
            product *= matched[order] / total[order]
    our_length, their_length = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    brevity = math.exp(1 - their_length / our_length) if our_length < their_length else 1.0
    return brevity * product ** (1 / len(orders))


def rouge_l(response: str, reference: str) -> float:
    """Lin 2004: F1 of the longest common subsequence, found as a longest increasing run of matching places."""
    stemmer = PorterStemmer()
    ours, theirs = (
        [
            stemmer.stem(word) if len(word) > 3 and word.isascii() else word
            for word in re.findall(r"[^\W_]+", spaced(text.lower()))
        ]
        for text in (response, reference)
    )
    ends: list[int] = []
    for word in ours:
        for place in reversed([place for place, other in enumerate(theirs) if other == word]):
            at = bisect_left(ends, place)
            ends[at : at + 1] = [place]
    return 2 * len(ends) / (len(ours) + len(theirs)) if ends else 0.0


def distinct_2(responses: list[str]) -> float:
    """Li et al. 2016."""
    counts: Counter[tuple[str, str]] = Counter()
    for response in responses:
        words = spaced(response.lower()).split()
        counts.update((words[at], words[at + 1]) for at in range(len(words) - 1))
    return len(counts) / counts.total() if counts else 0.0
