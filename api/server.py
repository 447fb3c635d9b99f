"""The API's process: `python -m api.server`."""

import uvicorn

from api.app import create_app
from configs.settings import get_settings

SHUTDOWN_GRACE_SECONDS = 5


def main() -> None:
    """Serve the API until told to stop."""
    settings = get_settings()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.api_port,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
    )


if __name__ == "__main__":
    main()
