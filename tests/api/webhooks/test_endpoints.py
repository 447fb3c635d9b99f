"""OpenAI's SDK manages webhook endpoints; with the settings as they come nothing internal is a target."""

import openai
import pytest

from tests.api.webhooks.receiver import ALL, Receiver, deliveries, settled


@pytest.fixture(scope="module")
def settings(settings):
    return settings.model_copy(update={"webhook_attempts": 1})


@pytest.fixture(autouse=True)
def public_names(names):
    names["public.test"] = names["also-public.test"] = [["1.1.1.1"]]


def test_an_endpoint_from_its_making_to_its_end(sdk):
    made = sdk.webhooks.create(name="mine", url="https://public.test/a", event_types=ALL[:1])
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret.endswith(made.signing_secret_hint.removeprefix("…"))
    shown = sdk.webhooks.retrieve(made.id)
    assert "signing_secret" not in shown.model_fields_set | set(shown.model_extra)
    assert (shown.name, shown.url, shown.event_types) == ("mine", "https://public.test/a", ALL[:1])
    changed = sdk.webhooks.update(made.id, url="http://also-public.test:8080/b", event_types=[ALL[2], ALL[0]])
    assert (changed.name, changed.url) == ("mine", "http://also-public.test:8080/b")
    assert set(changed.event_types) == {ALL[0], ALL[2]}
    assert sdk.webhooks.update(made.id, name="yours").event_types == changed.event_types
    rotated = sdk.webhooks.rotate_secret(made.id)
    assert rotated.signing_secret != made.signing_secret
    assert sdk.webhooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match="no webhook endpoint"):
        sdk.webhooks.retrieve(made.id)


def test_lists_are_newest_first_and_paged(sdk, target):
    ids = [target("https://public.test/").id for _ in range(3)]
    first = sdk.webhooks.list(limit=2)
    assert [one.id for one in first.data] == ids[:0:-1]
    assert [one.id for one in first] == ids[::-1]


def test_the_same_key_makes_one_endpoint_even_if_its_name_leads_elsewhere_by_then(sdk, names):
    names["turncoat.test"] = [["1.1.1.1"], ["10.0.0.1"]]
    body = {"name": "once", "url": "https://turncoat.test/", "event_types": ALL}
    first, again = (sdk.webhooks.create(**body, extra_headers={"Idempotency-Key": "once"}) for _ in range(2))
    assert first == again
    sdk.webhooks.delete(first.id)
    assert sdk.webhooks.list().data == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"url": "ftp://public.test/"}, "http:// or https://"),
        ({"url": "https://anna:secret@public.test/"}, "without user name"),
        ({"url": "https://nowhere.invalid/"}, "'https://nowhere.invalid/', to which nothing can be sent"),
        ({"url": "http://localhost:5000/"}, "127.0.0.1, which is not public"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "LLM_PLATFORM_WEBHOOK_ALLOW_INTERNAL=true"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "not public"),
        ({"event_types": ["batch.completed"]}, "fine_tuning.job.succeeded"),
        ({"event_types": []}, "event_types"),
        ({"name": " "}, "name"),
        ({"secret": "mine"}, "secret is not a known field"),
    ],
)
def test_what_is_refused(client, sdk, target, change, said):
    endpoint = target("https://public.test/")
    body = {"name": "mine", "url": "https://public.test/", "event_types": ALL} | change
    for path in ("", f"/{endpoint.id}"):
        answer = client.post(f"/v1/webhook_endpoints{path}", json=body)
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]
    assert [one.url for one in sdk.webhooks.list()] == ["https://public.test/"]


@pytest.mark.parametrize("name", ["webhook-999", "webhook-x", "ftjob-1"])
def test_an_unknown_endpoint(client, name):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", "/rotate_secret")):
        assert client.request(method, f"/v1/webhook_endpoints/{name}{path}").status_code == 404


def test_a_name_that_turns_internal_gets_nothing(client, job, names, target):
    with Receiver() as receiver:
        names["turncoat.test"] = [["1.1.1.1"], ["127.0.0.1"]]
        endpoint = target(f"http://turncoat.test:{receiver.port}/")
        job("COMPLETED")
        delivery = settled(client, endpoint)
        assert receiver.received.empty()
    assert (delivery["status"], delivery["attempts"], delivery["status_code"]) == ("given_up", 1, None)
    assert "127.0.0.1, which is not public" in delivery["error"]
    assert deliveries(client, endpoint) == [delivery]
