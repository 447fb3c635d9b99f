"""A hub over real HTTP: it serves the folders of a directory as models and data sets, and counts who asks."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """`<root>/<org>/<name>/…` is what it has. `claimed` bytes are added to sizes; `stall_after` stops content."""

    def __init__(self, root: Path, *, claimed: int = 0, stall_after: int | None = None) -> None:
        self.requests: list[str] = []
        self.stopping = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self._answer(body=False)

            def do_GET(self):
                self._answer(body=True)

            def _answer(self, body):
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                parts = path.strip("/").split("/")
                if parts[0] == "api":
                    self._describe(parts, root / "/".join(parts[2:4]))
                elif "resolve" in parts:
                    names = parts[1:] if parts[0] == "datasets" else parts
                    self._file(root / "/".join(names[:2]) / "/".join(names[4:]), body)
                else:
                    self._send(404, b"{}")

            def _describe(self, parts, folder):
                if not folder.is_dir() or len(parts) < 4:
                    return self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
                files = sorted(file for file in folder.rglob("*") if file.is_file())
                names = [str(file.relative_to(folder)) for file in files]
                sizes = [file.stat().st_size + claimed for file in files]
                if "tree" in parts:
                    described = [
                        {"type": "file", "path": name, "size": size, "oid": _etag(file)}
                        for name, size, file in zip(names, sizes, files, strict=True)
                    ]
                    return self._send(200, json.dumps(described).encode())
                siblings = [{"rfilename": name, "size": size} for name, size in zip(names, sizes, strict=True)]
                about = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings, "private": False}
                return self._send(200, json.dumps(about | {"disabled": False, "downloads": 0, "likes": 0}).encode())

            def _file(self, file, body):
                if not file.is_file():
                    return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                content = file.read_bytes()
                headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
                if body and stall_after is not None and file.suffix in {".safetensors", ".parquet"}:
                    self.send_response(200)
                    for name, value in (headers | {"Content-Length": str(len(content))}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content[:stall_after])
                    hub.stopping.wait()
                    return None
                return self._send(200, content, headers, body=body)

            def _send(self, status, content, headers=None, *, body=True):
                self.send_response(status)
                for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if body and self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
