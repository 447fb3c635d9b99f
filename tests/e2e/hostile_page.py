"""A hostile web page in a real browser: pages of another site, of another port, and of a name that is rebound to us."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.browser import CHROMIUM_FLAGS

REBOUND = "evil.example"
"""A name of the attacker's that the browser resolves to this machine."""
KINDS = ("simple POST", "POST without a type", "form upload", "JSON", "websocket")

_SEND = """
async ({kind, url, method, body, type, file, messages}) => {
  const plain = {"simple POST": "text/plain;charset=UTF-8", "JSON": type};
  if (kind === "websocket") {
    return await new Promise(done => {
      const socket = new WebSocket(url.replace("http", "ws"), messages.protocol ? [messages.protocol] : []);
      socket.onopen = () => { for (const text of messages.texts) socket.send(text); };
      socket.onclose = event => done("closed " + event.code);
      setTimeout(() => { done(socket.readyState === WebSocket.OPEN ? "open" : "not open"); socket.close(); }, 3000);
    });
  }
  let content = body;
  const headers = {};
  if (kind === "form upload") {
    content = new FormData();
    for (const [name, value] of Object.entries(file.fields)) content.append(name, value);
    content.append("file", new Blob([file.text]), "rows.jsonl");
  } else if (kind === "POST without a type") {
    content = new Blob([body]);
  } else {
    headers["Content-Type"] = plain[kind];
  }
  // A simple request is sent without asking first; its answer can't be read, and need not be.
  const mode = kind === "JSON" ? "cors" : "no-cors";
  try {
    const answer = await fetch(url, {method, mode, headers, body: content});
    return "status " + answer.status;
  } catch (error) {
    return "refused by the browser: " + error;
  }
}
"""
_FORM = """
({url, fields, multipart}) => {
  const form = document.createElement("form");
  form.method = "POST";
  form.action = url;
  form.enctype = multipart ? "multipart/form-data" : "text/plain";
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement("input");
    input.name = name;
    input.value = value;
    form.append(input);
  }
  (document.body ?? document.documentElement).append(form);  // a document that is no HTML may have no body
  form.submit();
}
"""


class _BlankPage(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>A page</title><p>Nothing to see."
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        return


@contextmanager
def page_server() -> Iterator[int]:
    """Serve blank pages on a port of this machine, for any name; yields the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_BlankPage)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def careless_chromium(path: str) -> Iterator[Browser]:
    """Run a Chromium that resolves the attacker's name to this machine, as a rebinding name server makes it do."""
    flags = [*CHROMIUM_FLAGS, f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"]
    # Without the browser's own question before a public page may ask this machine: other browsers have none.
    features = ("LocalNetworkAccessChecks", "PrivateNetworkAccessSendPreflights", "BlockInsecurePrivateNetworkRequests")
    flags.append(f"--disable-features={','.join(features)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


def send(page: Page, kind: str, url: str, **what: Any) -> str:
    """Let the page's script send a request; returns what the script saw of the answer."""
    asked = {"kind": kind, "url": url, "method": "POST", "type": "application/json", "file": None, "messages": None}
    seen: str = page.evaluate(_SEND, asked | {"body": None} | what)
    return seen


def submit_form(page: Page, url: str, fields: dict[str, str], *, multipart: bool) -> None:
    """Let the page submit a form, which takes the browser to the answer."""
    with page.expect_navigation(wait_until="commit"):
        page.evaluate(_FORM, {"url": url, "fields": fields, "multipart": multipart})
