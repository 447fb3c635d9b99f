"""Who gets past the login before Prefect and MLflow: the services' secret and admin keys, however they are sent."""

import base64
import json

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from configs.keys import Scope, new_key
from registry.database import Database, upgrade
from registry.guards.login import LoginGuard, auth_string
from registry.known_keys import KnownKeys
from registry.repositories.api_keys import ApiKeyRepository

SECRET = "a-secret-of-the-services-of-43-characters-__"
MADE = {scope: new_key(f"a-{scope}-key", scope) for scope in Scope}
ADMIN = MADE[Scope.ADMIN][0]


def basic(text):
    return f"Basic {base64.b64encode(text.encode()).decode()}"


RIGHT = (basic(f"platform:{SECRET}"), basic(f"anyone:{ADMIN}"), basic(f":{ADMIN}"), basic(ADMIN), f"Bearer {ADMIN}")
WRONG = (
    None,
    "",
    "Basic",
    "Basic !",
    "Bearer ",
    basic(""),
    basic("platform:"),
    basic(f"{ADMIN}:"),
    basic(f"admin:{MADE[Scope.WRITE][0]}"),
    f"Bearer {MADE[Scope.READ][0]}",
    f"Bearer {MADE[Scope.ADMIN][1].digest}",
    f"Bearer {SECRET}x",
    ADMIN,
)
# Keys are made anew at every run: a test's name may not have one in it.
NUMBERS = [str(number) for number in range(20)]


@pytest.fixture
def database(tmp_path):
    url = f"sqlite:///{tmp_path / 'platform.db'}"
    upgrade(url)
    database = Database(url)
    yield database
    database.close()


@pytest.fixture(params=[False, True], ids=["mlflow", "prefect"])
def client(request, database):
    """A server that shows what reaches it, behind the login; `own_login` is how Prefect has it."""

    async def anything(request):
        return PlainTextResponse(request.headers.get("authorization", "nothing"))

    async def socket(websocket):
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    app = Starlette(routes=[Route("/", anything), WebSocketRoute("/socket", socket)])
    known = KnownKeys(database, [configured for _, configured in MADE.values()])
    with TestClient(LoginGuard(app, SECRET, known.admits_admin, own_login=request.param)) as client:
        yield client
    known.close()


def own_login(client):
    return client.app.own_login


def headers(authorization):
    return {} if authorization is None else {"Authorization": authorization}


@pytest.mark.parametrize("authorization", RIGHT, ids=NUMBERS[: len(RIGHT)])
def test_who_is_let_in_goes_on_with_the_servers_own_password(client, authorization):
    answer = client.get("/", headers=headers(authorization))
    assert (answer.status_code, answer.text) == (200, basic(auth_string(SECRET)))


@pytest.mark.parametrize("authorization", WRONG, ids=NUMBERS[: len(WRONG)])
def test_who_is_not_let_in_is_asked_or_left_to_the_servers_own_login(client, authorization):
    answer = client.get("/", headers=headers(authorization))
    if own_login(client):
        assert answer.text == ("nothing" if authorization is None else authorization)
        return
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers=headers(authorization)):
        pass


@pytest.mark.parametrize(
    ("token", "translated"),
    [
        (auth_string(SECRET), True),
        (f"me:{ADMIN}", True),
        (ADMIN, True),
        (f"me:{MADE[Scope.WRITE][0]}", False),
        ("", False),
        (None, False),
        (7, False),
    ],
    ids=NUMBERS[:7],
)
def test_a_websockets_first_message_is_translated(client, token, translated):
    sent = {"type": "auth", "token": token}
    with client.websocket_connect("/socket", headers=headers(RIGHT[0])) as socket:
        socket.send_text(json.dumps(sent))
        received = json.loads(socket.receive_text())
    own = own_login(client) and translated
    assert received == {"type": "auth", "token": auth_string(SECRET) if own else token}


def test_a_revoked_key_is_let_in_no_more(client, database, monkeypatch):
    monkeypatch.setattr("registry.known_keys.REFRESH_SECONDS", 0.0)
    own = basic(auth_string(SECRET))
    assert client.get("/", headers=headers(RIGHT[1])).text == own
    with database.transaction() as session:
        ApiKeyRepository(session).revoke(MADE[Scope.ADMIN][1], None)
    refused = client.get("/", headers=headers(RIGHT[1]))
    assert refused.text == RIGHT[1] if own_login(client) else refused.status_code == 401
    assert client.get("/", headers=headers(RIGHT[0])).text == own


def test_no_key_is_admitted_while_none_can_be_looked_up(client, database):
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE api_keys")
    refused = client.get("/", headers=headers(RIGHT[1]))
    assert refused.text == RIGHT[1] if own_login(client) else refused.status_code == 401
    assert client.get("/", headers=headers(RIGHT[0])).text == basic(auth_string(SECRET))
