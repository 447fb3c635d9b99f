"""A hostile page in Chromium changes nothing, at any of the platform's four ports; our own pages go on working.

For each port and kind of request the very same request is made by a page of the port itself: where that changes nothing
either, the kind is none that the server takes, and it is the refusal that is looked at.
"""

import json
import time
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest

from tests.e2e.browser import find_chromium
from tests.e2e.hostile_page import KINDS, REBOUND, careless_chromium, page_server, send, submit_form

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed; `make browser` installs it (Debian, as root)"
)
SERVICES = ("api", "prefect", "mlflow", "engine")
ATTACKERS = ("another site", "another port", "rebinding")
CHANGING = {
    ("api", "simple POST"),
    ("api", "POST without a type"),
    ("api", "form upload"),
    ("api", "JSON"),
    ("prefect", "POST without a type"),
    ("prefect", "JSON"),
    ("prefect", "websocket"),
    ("mlflow", "simple POST"),
    ("mlflow", "POST without a type"),
    ("mlflow", "JSON"),
    ("engine", "JSON"),
}
"""Where our own page's request does change something."""
ROWS = "".join(f'{{"prompt": "question {number}", "completion": "answer"}}\n' for number in range(40))
GUARDED = (400, 403)
EVENT_SECONDS = 60.0


class Target:
    """The platform's four servers, as an attacker asks them, and what they hold."""

    def __init__(self, platform, run_id, weights):
        self.ports = platform.ports
        self.http = platform.http
        self.run_id = run_id
        self.weights = weights
        self.prefect, self.mlflow = platform.prefect_url, platform.mlflow_url

    def url(self, service, host="localhost"):
        return f"http://{host}:{self.ports[service]}"

    def request(self, service, kind, name):
        """Return where to send what, so that something of this name is made."""
        data_set = {"body": json.dumps({"dataset": "hostile", "name": name}), "path": "/api/datasets"}
        artifact = {
            "body": name,
            "path": f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={self.run_id}&path={name}.txt",
        }
        flow = {"body": json.dumps({"name": name}), "path": "/api/flows/"}
        generation = {"prompt": name, "max_new_tokens": 1, "model": "tiny-llama", "weights": self.weights}
        form = {"text": ROWS, "fields": {"name": name}}
        event = {"occurred": datetime.now(UTC).isoformat(), "event": name, "id": str(uuid4())}
        texts = [json.dumps(event | {"resource": {"prefect.resource.id": name}})]
        socket = {"messages": {"texts": texts}, "path": "/api/events/in"}
        by_service = {
            "api": {"JSON": {"body": json.dumps({"name": name, "base_model": "tiny-llama"}), "path": "/api/models"}},
            "prefect": {"JSON": flow},
            "mlflow": {"JSON": {"body": json.dumps({"name": name}), "path": "/api/2.0/mlflow/experiments/create"}},
            "engine": {"JSON": {"body": json.dumps(generation), "path": "/generate"}},
        }
        plain = {"api": data_set, "prefect": flow, "mlflow": artifact, "engine": by_service["engine"]["JSON"]}[service]
        others = {
            "simple POST": plain,
            "POST without a type": plain,
            "form upload": {"file": form, "path": plain["path"]},
            "websocket": socket,
        }
        return by_service[service].get(kind) or others[kind]

    def holds(self, service):
        """Return everything that a request could have changed."""
        if service == "api":
            paths = ("/models", "/datasets", "/training", "/evaluations", "/audit?limit=1000&order=desc")
            lists = (self.http.get(path).json() for path in paths)
            # By their ids: how far an evaluation of an earlier test is changes by itself.
            return [[one["id"] for one in next(v for v in found.values() if isinstance(v, list))] for found in lists]
        if service == "prefect":
            answers = [httpx.post(f"{self.prefect}/{what}/filter", json={}) for what in ("flows", "deployments")]
            return [sorted(found["name"] for found in answer.raise_for_status().json()) for answer in answers]
        if service == "mlflow":
            found = httpx.get(f"{self.mlflow}/api/2.0/mlflow/experiments/search", params={"max_results": 1000})
            files = httpx.get(f"{self.mlflow}/api/2.0/mlflow/artifacts/list", params={"run_id": self.run_id})
            return [sorted(one["name"] for one in found.json()["experiments"]), files.json()]
        lines = httpx.get(f"{self.url('engine')}/metrics").raise_for_status().text.splitlines()
        return sorted(line for line in lines if line.startswith(("llm_engine_requests_total", "llm_engine_prompt")))

    def events(self, name):
        body = {"filter": {"event": {"name": [name]}}}
        return httpx.post(f"{self.prefect}/events/filter", json=body).raise_for_status().json()["events"]


@pytest.fixture(scope="module")
def target(platform, tiny_model, tiny_llama_dir):
    folder = platform.data_dir / "local-datasets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hostile.jsonl").write_text(ROWS)
    create = {"experiment_id": "0", "run_name": "a run"}
    run = httpx.post(f"{platform.mlflow_url}/api/2.0/mlflow/runs/create", json=create).raise_for_status().json()
    weights = platform.environment["LLM_PLATFORM_LOCAL_MODELS_DIR"]
    return Target(platform, run["run"]["info"]["run_id"], f"{weights}/tiny-llama")


@pytest.fixture(scope="module")
def browser():
    with careless_chromium(CHROMIUM) as running:
        yield running


@pytest.fixture(scope="module")
def page_port():
    with page_server() as port:
        yield port


@pytest.fixture
def page(browser):
    """A tab that remembers the answers' statuses: a script is not shown them, nor is it what counts."""
    context = browser.new_context()
    page = context.new_page()
    page.statuses = {}
    page.on("response", lambda answer: page.statuses.update({(answer.request.method, answer.url): answer.status}))
    yield page
    context.close()


def open_page_of(page, attacker, target, service, page_port):
    addresses = {
        "another site": f"http://{REBOUND}:{page_port}/",
        "another port": f"http://localhost:{page_port}/",
        # What the name led to first is no matter: by now it leads to us, and the page is of its origin.
        "rebinding": f"{target.url(service, REBOUND)}/",
        "our own page": f"{target.url(service)}/health",
        "our own page by its other name": f"{target.url(service, '127.0.0.1')}/health",
    }
    page.goto(addresses[attacker], wait_until="commit")


def ask(page, attacker, target, service, kind):
    """Make the page ask for something of a new name; return the name, what the script saw, and the answer's status."""
    name = f"named-{uuid4().hex}"
    what = target.request(service, kind, name)
    url = target.url(service, REBOUND if attacker == "rebinding" else "localhost") + what.pop("path")
    seen = send(page, kind, url, **what)
    return name, seen, page.statuses.get(("POST", url))


@pytest.mark.parametrize("attacker", ATTACKERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("service", SERVICES)
def test_a_hostile_page_changes_nothing(page, page_port, target, service, kind, attacker):
    before = target.holds(service)
    open_page_of(page, attacker, target, service, page_port)
    name, seen, status = ask(page, attacker, target, service, kind)
    print(f"{service}, {kind}, {attacker}: the script saw {seen!r}, the answer was {status}")
    if kind == "websocket":
        assert seen != "open"
    elif status is None:  # the browser asked first, and was not told that it may
        assert kind == "JSON"
        assert seen.startswith("refused by the browser")
    else:
        assert status in GUARDED
    assert target.holds(service) == before
    if (service, kind) == ("prefect", "websocket"):
        _, opened, _ = own_websocket(page, page_port, target)
        assert opened == "open"
        assert target.events(name) == []


def own_websocket(page, page_port, target):
    """Send an event by our own page, and wait until Prefect shows it: whatever was sent before is there by then."""
    open_page_of(page, "our own page", target, "prefect", page_port)
    name, seen, status = ask(page, "our own page", target, "prefect", "websocket")
    deadline = time.monotonic() + EVENT_SECONDS
    while seen == "open" and not target.events(name):
        assert time.monotonic() < deadline, "Prefect shows no event"
        time.sleep(0.5)
    return name, seen, status


@pytest.mark.parametrize("own", ["our own page", "our own page by its other name"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("service", SERVICES)
def test_the_same_request_of_our_own_page_is_taken(page, page_port, target, service, kind, own):
    if kind == "websocket":
        if service == "prefect":
            assert own_websocket(page, page_port, target)[1] == "open"
        else:
            open_page_of(page, own, target, service, page_port)
            assert ask(page, own, target, service, kind)[1] != "open"  # there is none to be opened
        return
    before = target.holds(service)
    open_page_of(page, own, target, service, page_port)
    _, seen, status = ask(page, own, target, service, kind)
    print(f"{service}, {kind}, {own}: the script saw {seen!r}, the answer was {status}")
    if own != "our own page" and kind == "JSON" and status is None:
        # Only Prefect's UI asks its own server by the other name, and only Prefect answers its preflight.
        assert service in ("api", "engine")
        return
    assert status != 403
    assert (target.holds(service) != before) == ((service, kind) in CHANGING)


@pytest.mark.parametrize("multipart", [False, True])
@pytest.mark.parametrize("service", SERVICES)
def test_a_form_that_takes_the_browser_along_is_refused_too(page, page_port, target, service, multipart):
    before = target.holds(service)
    url = target.url(service) + target.request(service, "form upload", "by-a-form")["path"]
    open_page_of(page, "another port", target, service, page_port)
    submit_form(page, url, {"name": "by-a-form"}, multipart=multipart)
    assert page.statuses[("POST", url)] == 403
    assert target.holds(service) == before


@pytest.mark.parametrize("service", SERVICES)
def test_a_hostile_page_reads_nothing_and_frames_nothing(page, page_port, target, service):
    path = {"api": "/api/models", "prefect": "/api/admin/version", "mlflow": "/ajax-api/3.0/mlflow/server-info"}
    url = target.url(service) + path.get(service, "/health")
    read = "url => fetch(url).then(answer => answer.text()).catch(error => 'unreadable')"
    for attacker in ("another site", "another port"):
        open_page_of(page, attacker, target, service, page_port)
        assert page.evaluate(read, url) == "unreadable"
        page.wait_for_load_state("domcontentloaded")
        with page.expect_response(url + "?framed") as framed:
            page.evaluate("url => { document.body.innerHTML = `<iframe src='${url}'></iframe>` }", url + "?framed")
        assert framed.value.status == 403
    page.goto(f"{target.url(service, REBOUND)}/", wait_until="commit")
    answer = page.evaluate(read, url.replace("localhost", REBOUND))
    assert "is not served here" in answer
