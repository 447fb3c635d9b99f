"""Which requests the guard before every server passes on: tables over what browsers send, and what programs do."""

import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from registry.guards.sites import SiteGuard

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND")
SAFE = METHODS[:3]
HOME = "localhost:5000"
OWN = ("http://localhost:5000", "http://127.0.0.1:5000", "http://[::1]:5000", "http://LOCALHOST:5000")
FOREIGN = (
    "null",
    "",
    "https://evil.example",
    "http://localhost",
    "http://localhost:4200",
    "http://127.0.0.1:5001",
    "http://localhost:5000.evil.example",
    "http://evil.example:5000",
    "http://localhost.evil.example:5000",
    "http://evil.example:5000 http://localhost:5000",
    "file://",
    "chrome-extension://abcdef",
)


def client_of(*, hosts=("localhost", "127.0.0.1", "::1"), origins=None, base_url=f"http://{HOME}"):
    async def anything(request):
        return PlainTextResponse(request.headers.get("origin", "no origin"))

    async def socket(websocket):
        await websocket.accept()
        await websocket.close()

    app = Starlette(routes=[Route("/", anything, methods=list(METHODS)), WebSocketRoute("/socket", socket)])
    # As MLflow has it: any origin of this machine may read.
    app.add_middleware(CORSMiddleware, allow_origin_regex=r"^http://(localhost|127\.0\.0\.1)(:[0-9]+)?$")
    return TestClient(SiteGuard(app, hosts, origins), base_url=base_url)


def connects(client, headers) -> bool:
    try:
        with client.websocket_connect("/socket", headers=headers):
            return True
    except WebSocketDisconnect as refused:
        return bool(refused.code != 1008)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        *[({"Origin": origin}, True) for origin in OWN],
        *[({"Origin": origin}, False) for origin in FOREIGN],
        *[({"Origin": origin, "Sec-Fetch-Site": "same-site"}, False) for origin in FOREIGN],
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        # A page without a referrer, to its own server.
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, True),
        # localhost and 127.0.0.1 are two sites, and one server.
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:5000"}, True),
        ({"Sec-Fetch-Site": "none", "Origin": "https://evil.example"}, False),
    ],
)
def test_who_may_ask_for_a_change(method, headers, passes):
    answer = client_of().request(method, "/", headers=headers)
    if passes or method in SAFE:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
        assert "ALLOWED_ORIGINS" not in answer.json()["error"]


@pytest.mark.parametrize("origin", OWN)
def test_a_websocket_of_our_own_page_is_taken(origin):
    assert connects(client_of(), {"Origin": origin, "Host": HOME})


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_websocket_of_another_page_is_refused(origin):
    client = client_of()
    assert connects(client, {"Host": HOME})
    assert not connects(client, {"Origin": origin, "Host": HOME})


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "localhost.evil.example", "10.0.0.1", "[::2]", ""]
)
@pytest.mark.parametrize("method", METHODS)
def test_a_foreign_host_is_refused_whatever_is_asked(host, method):
    client = client_of()
    answer = client.request(method, "/", headers={"Host": host})
    assert answer.status_code == 400
    # By DNS rebinding a page is of the same origin as what it asks.
    assert not connects(client, {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})
    assert connects(client_of(hosts=["*"]), {"Host": host or "any"})


def test_an_allowed_origin_may_change_things_and_another_is_told_of_the_setting():
    client = client_of(origins=["https://app.example"])
    allowed = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    assert client.post("/", headers=allowed).status_code == 200
    assert connects(client, {**allowed, "Host": HOME})
    refused = client.post("/", headers={"Origin": "https://app.example:444"})
    assert "LLM_PLATFORM_ALLOWED_ORIGINS" in refused.json()["error"]


def test_an_origin_is_judged_by_the_host_that_was_asked_for_behind_a_proxy_with_tls():
    client = client_of(hosts=["platform.example"], base_url="http://platform.example")
    assert client.post("/", headers={"Origin": "https://platform.example"}).status_code == 200
    assert client.post("/", headers={"Origin": "https://platform.example:8443"}).status_code == 403


@pytest.mark.parametrize("origin", ["http://localhost:8000", "http://127.0.0.1:9"])
def test_no_page_of_another_port_reads_an_answer(origin):
    client = client_of()
    read = client.get("/", headers={"Origin": origin})
    assert (read.status_code, read.text) == (200, "no origin")
    assert "access-control-allow-origin" not in read.headers
    preflight = client.options("/", headers={"Origin": origin, "Access-Control-Request-Method": "DELETE"})
    assert "access-control-allow-origin" not in preflight.headers
    own = client.get("/", headers={"Origin": OWN[0]})
    assert own.headers["access-control-allow-origin"] == OWN[0]


@pytest.mark.parametrize("kind", ["iframe", "frame", "embed", "object"])
def test_another_site_does_not_frame_our_pages(kind):
    client = client_of()
    for site, status in {"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200}.items():
        assert client.get("/", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Dest": kind}).status_code == status
    # A link on another site may lead here.
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}).status_code == 200
