"""An evaluation's samples as a file of JSON lines, written atomically: texts and their scores."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.atomic_files import atomic_file
from tasks.metrics.samples import SampleScores


@dataclass(frozen=True, slots=True)
class EvaluatedSample:
    """What a model was asked, what it answered, what was expected, and what that scored.

    `response` is None in an evaluation that generated nothing, as none of its metrics needed it.
    """

    prompt: str
    response: str | None
    reference: str
    scores: SampleScores


def sample_file(evaluations_dir: Path, evaluation_uid: str) -> Path:
    """Return where an evaluation's samples lie."""
    return evaluations_dir / f"{evaluation_uid}.jsonl"


def write_samples(samples: Iterable[EvaluatedSample], path: Path) -> None:
    """Write the samples, one JSON object a line; the file appears complete and lasting, or stays as it was."""
    with atomic_file(path) as file:
        for sample in samples:
            file.write(json.dumps(asdict(sample)) + "\n")


def read_samples(path: Path) -> Iterator[EvaluatedSample]:
    """Yield the samples in the order they were written, one at a time: there can be 100,000 of them.

    Raises FileNotFoundError if there is no such file.
    """
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield _sample(json.loads(line))


def _sample(value: dict[str, Any]) -> EvaluatedSample:
    scores = value.pop("scores")
    # JSON has lists where the scores have tuples.
    for name in ("bleu_statistics", "bigrams"):
        if scores[name] is not None:
            scores[name] = tuple(scores[name])
    return EvaluatedSample(**value, scores=SampleScores(**scores))
