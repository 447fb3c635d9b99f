"""Imports a file's rows into the store: one pass that validates, tokenizes and writes them."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from configs.recipe import CutRows
from tasks.data.collection import older_objects_left_alone
from tasks.data.fingerprint import tokenizer_content
from tasks.data.source import ExampleSource
from tasks.data.store import StoredDataset, StoreWriter
from tasks.data.token_cache import TokenCacheWriter, tokens_folder
from tasks.data.validation import validate
from tasks.data.validation_report import ValidationReport


def import_dataset(
    source: ExampleSource,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    datasets_dir: Path,
    *,
    allow_errors: bool = False,
    cut_rows: CutRows = "truncate",
    processes: int = 1,
) -> tuple[ValidationReport, StoredDataset | None]:
    """Return what was found, and the stored data set if it is usable; else nothing is left on disk.

    The token ids that counting needs are kept in the data set's folder, where a first training with the same tokenizer
    finds them. For `processes` see `validate`. Raises DatasetError for a file that can't be read to its end.
    """
    with StoreWriter(datasets_dir) as rows, TokenCacheWriter(datasets_dir) as tokens:
        with older_objects_left_alone():
            report = validate(
                source,
                tokenizer,
                max_seq_length,
                rows,
                tokens=tokens,
                allow_errors=allow_errors,
                cut_rows=cut_rows,
                processes=processes,
            )
        report.warnings.extend(source.warnings)
        if not report.usable:
            return report, None
        dataset = rows.finish(report.as_json())
        tokens.finish(tokens_folder(dataset.folder, dataset.hashes, tokenizer_content(tokenizer)))
        return report, dataset
