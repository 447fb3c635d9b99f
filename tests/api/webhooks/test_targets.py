"""Requests go to the very addresses that were looked at, keep the name, and end whatever the target does."""

import os
import socket
import ssl
import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from configs.settings import Settings
from registry.clock import utcnow
from tests.api.webhooks.receiver import PATIENCE_SECONDS, Receiver, settled, unwrapped

NAME = "hooks.test"
ELSEWHERE = "127.0.0.9"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a certificate of its own authority, for `NAME` alone, and its key."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utcnow() - timedelta(days=1))
        .not_valid_after(utcnow() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(signed.public_bytes(pem) + private)
    return file


@pytest.fixture(scope="module")
def settings(settings, certificate):
    return settings.model_copy(
        update={
            "webhook_allow_internal": True,
            "webhook_attempts": 1,
            "webhook_ca_file": certificate,
            "webhook_timeout_seconds": 3.0,
        }
    )


@pytest.fixture
def tls(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def test_a_name_that_changes_after_it_was_looked_at(client, job, names, target):
    with Receiver() as receiver:
        names[NAME] = [["127.0.0.1"], ["127.0.0.1"], [ELSEWHERE]]
        endpoint = target(f"http://{NAME}:{receiver.port}/")
        job("COMPLETED")
        assert receiver.next().headers["host"] == f"{NAME}:{receiver.port}"
        assert settled(client, endpoint)["status"] == "delivered"
    assert names[NAME] == [[ELSEWHERE]], "only the third look-up would have been told of another address"


def test_an_address_that_does_not_answer_is_not_the_last(client, job, names, target):
    with Receiver() as receiver:
        names[NAME] = [[ELSEWHERE, "127.0.0.1"]]
        endpoint = target(f"http://{NAME}:{receiver.port}/")
        job("COMPLETED")
        receiver.next()
        assert settled(client, endpoint)["status"] == "delivered"


def test_an_answer_without_end_is_cut_off(client, job, target):
    cut_off = threading.Event()

    def send_without_end(body):
        try:
            while True:
                body.write(bytes(65536))
        except OSError:
            cut_off.set()

    with Receiver(send_body=send_without_end) as receiver:
        endpoint = target(receiver.url)
        job("COMPLETED")
        assert cut_off.wait(PATIENCE_SECONDS)
        assert settled(client, endpoint)["status"] == "delivered"


def test_a_target_that_never_answers_is_left_after_a_while(client, job, target):
    told = threading.Event()
    with Receiver(before_answering=told.wait) as receiver:
        endpoint = target(receiver.url)
        job("COMPLETED")
        delivery = settled(client, endpoint)
        told.set()
    assert (delivery["status"], delivery["error"]) == ("given_up", "no answer within 3 s")


def test_tls_is_checked_for_the_name(client, job, names, target, tls):
    asked = []
    tls.sni_callback = lambda _connection, name, _context: asked.append(name)
    with Receiver(tls=tls) as receiver:
        names[NAME] = names["other.test"] = [["127.0.0.1"]]
        right, wrong, nameless = (
            target(f"https://{host}:{receiver.port}/") for host in (NAME, "other.test", "127.0.0.1")
        )
        job("COMPLETED")
        received = receiver.next()
        outcomes = [settled(client, endpoint) for endpoint in (right, wrong, nameless)]
        assert receiver.received.empty()
    unwrapped(received, right.signing_secret)
    assert [one["status"] for one in outcomes] == ["delivered", "given_up", "given_up"]
    assert all("certificate" in one["error"].lower() for one in outcomes[1:])
    assert set(asked) == {NAME, "other.test", None}


def test_a_connection_that_breaks_spoils_no_later_one(client, job, names, target, tls):
    def answer_without_tls():
        connection, _ = listener.accept()
        with tls.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(65536)
            os.write(encrypted.fileno(), b"this is no record of TLS")
            # A close with unread bytes would be a reset, and the record lost.
            heard.wait(PATIENCE_SECONDS)

    heard = threading.Event()
    names[NAME] = [["127.0.0.1"]]
    with socket.create_server(("127.0.0.1", 0)) as listener, Receiver() as receiver:
        answering = threading.Thread(target=answer_without_tls)
        answering.start()
        broken = target(f"https://{NAME}:{listener.getsockname()[1]}/")
        job("COMPLETED")
        delivery = settled(client, broken)
        heard.set()
        answering.join(PATIENCE_SECONDS)
        sound = target(receiver.url)
        job("COMPLETED")
        assert settled(client, sound)["status"] == "delivered"
    assert (delivery["status"], delivery["status_code"]) == ("given_up", None)
    assert "SSL" in delivery["error"]


def test_authorities_are_certificates(tmp_path):
    file = tmp_path / "authority.pem"
    with pytest.raises(ValidationError, match="webhook_ca_file"):
        Settings(webhook_ca_file=file)
    file.write_text("none")
    with pytest.raises(ValidationError, match="certificates in PEM format"):
        Settings(webhook_ca_file=file)
