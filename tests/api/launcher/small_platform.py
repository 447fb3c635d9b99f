"""A platform of two small real HTTP servers, for the tests of the watch loop: `small_platform.py FOLDER SERVICE=PORT…`.

A service whose port is 0 ends at once with an error. A service named `parent` has a child that ignores SIGTERM.
"""

import os
import sys
from pathlib import Path

from api.launcher.lock import instance_lock
from api.launcher.preflight import PreflightError
from api.launcher.services import Service, answers
from api.launcher.watch import Watch

SERVER = """
import http.server, pathlib, subprocess, sys
if pathlib.Path(__file__).stem == "parent":
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", deaf])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
FAILURE = "import sys; print('no such weights'); sys.exit(3)"


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    folder = Path(sys.argv[1])
    services = []
    for argument in sys.argv[2:]:
        name, port = argument.split("=")
        script = folder / f"{name}.py"
        script.write_text(SERVER if int(port) else FAILURE)
        services.append(Service(name, (sys.executable, str(script), port), answers("127.0.0.1", int(port), "/")))
    try:
        with instance_lock(folder / "run" / "lock", say) as lock:
            watch = Watch(services, folder / "run", folder / "logs", say, lambda seconds: say("All ready"))
            return watch.run(os.environ, lock)
    except PreflightError as error:
        say(f"Can't start: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
