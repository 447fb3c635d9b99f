"""The process that fetches a model from the hub: `python -m registry.hub_download NAME`."""

import sys

from registry.fetching import answer
from registry.hub import MODEL_FILES


def _fetch() -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    return str(snapshot_download(sys.argv[1], allow_patterns=list(MODEL_FILES)))


if __name__ == "__main__":
    answer(_fetch)
