"""The process that fetches a model from the hub: `python -m registry.hub_download NAME`, JSON on its output.

It writes `{"folder": …}` or `{"error": "…"}`, and ends when its input does.
"""

import json
import os
import sys
import threading

from registry.hub import MODEL_FILES, first_line


def main() -> None:
    """Fetch one model."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        answer = {"folder": snapshot_download(sys.argv[1], allow_patterns=list(MODEL_FILES))}
    except Exception as error:  # noqa: BLE001 - the process's edge: whatever it is, the parent is told
        answer = {"error": first_line(error)}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
