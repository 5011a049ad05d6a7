"""Leaves: what they say, how long they are kept, and CAs that are refused."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.verification import PolicyBuilder, Store

from outpass.broker import keys
from outpass.errors import StartError
from outpass.gate.ca import LIFE, MAX_LEAVES, LeafStore

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
KEYS = keys.make(NOW)


class Clock:
    """Stands still until it is moved."""

    now = NOW

    def __call__(self) -> datetime.datetime:
        return self.now


def _names(store: LeafStore, host: str) -> list[x509.GeneralName]:
    certificate = store.leaf(host).cert.to_cryptography()
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def test_a_leaf_names_one_host_and_is_signed_by_the_ca() -> None:
    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, Clock())
    assert _names(store, "api.test") == [x509.DNSName("api.test")]
    certificate = store.leaf("api.test").cert.to_cryptography()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(KEYS.ca_cert.encode()))
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca is False
    assert certificate.not_valid_after_utc == NOW + LIFE


def test_an_address_is_an_address_in_the_certificate() -> None:
    import ipaddress

    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, Clock())
    assert _names(store, "192.0.2.7") == [x509.IPAddress(ipaddress.ip_address("192.0.2.7"))]
    assert _names(store, "2001:db8::1") == [x509.IPAddress(ipaddress.ip_address("2001:db8::1"))]


def test_leaves_are_kept_while_they_are_good_and_used() -> None:
    clock = Clock()
    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, clock)
    first = store.leaf("api.test")
    assert store.leaf("api.test") is first
    clock.now = NOW + LIFE - datetime.timedelta(minutes=30)
    second = store.leaf("api.test")
    assert second is not first
    for n in range(MAX_LEAVES):
        store.leaf(f"h{n}.test")
        store.leaf("kept.test")
    assert store.leaf("api.test") is not second, "the least recently used went"
    assert len(store._leaves) == MAX_LEAVES


def test_one_key_does_every_handshake_and_it_is_not_the_cas() -> None:
    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, Clock())
    a, b = store.leaf("a.test"), store.leaf("b.test")
    ca = x509.load_pem_x509_certificate(KEYS.ca_cert.encode())
    assert a.privatekey is b.privatekey
    assert a.cert.public_key() == b.cert.public_key() != ca.public_key()


def test_a_leaf_does_not_outlive_its_ca() -> None:
    clock = Clock()
    clock.now = NOW + datetime.timedelta(days=6, hours=20)
    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, clock)
    ca = x509.load_pem_x509_certificate(KEYS.ca_cert.encode())
    assert store.leaf("api.test").cert.to_cryptography().not_valid_after_utc <= ca.not_valid_after_utc


def _rsa() -> str:
    made = rsa.generate_private_key(65537, 2048)
    return made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.mark.parametrize(
    "key, cert",
    [
        ("nonsense", KEYS.ca_cert),
        (KEYS.ca_key, "nonsense"),
        (keys.make(NOW).ca_key, KEYS.ca_cert),
        (_rsa(), KEYS.ca_cert),
        ("", ""),
    ],
)
def test_a_ca_that_cannot_be_used_is_refused_at_the_start(key: str, cert: str) -> None:
    with pytest.raises(StartError):
        LeafStore(key, cert, Clock())


def test_a_renewed_ca_is_the_same_to_programs_that_read_the_one_before() -> None:
    clock = Clock()
    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, clock)
    before = store.leaf("api.test")
    clock.now = NOW + keys.CA_LIFE / 2 + datetime.timedelta(days=1)
    renewed = keys.renewed(KEYS, clock.now)
    store.renew(renewed.ca_cert)
    leaf = store.leaf("api.test")
    assert leaf is not before
    certificate = leaf.cert.to_cryptography()
    for anchor in (KEYS.ca_cert, renewed.ca_cert):
        authority = x509.load_pem_x509_certificate(anchor.encode())
        verifier = PolicyBuilder().store(Store([authority])).time(clock.now).build_server_verifier(x509.DNSName("api.test"))
        assert verifier.verify(certificate, []), "both anchors verify it"
    assert renewed.ca_key == KEYS.ca_key and renewed.iss == KEYS.iss and renewed.key == KEYS.key


def test_a_certificate_of_another_key_is_not_taken_for_a_renewal() -> None:
    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, Clock())
    first = store.leaf("api.test")
    with pytest.raises(StartError, match="another key"):
        store.renew(keys.make(NOW).ca_cert)
    assert store.leaf("api.test") is first


def test_a_clock_that_is_set_back_gets_leaves_that_are_valid_then() -> None:
    clock = Clock()
    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, clock)
    store.leaf("api.test")
    clock.now = NOW - datetime.timedelta(hours=5)
    assert store.leaf("api.test").cert.to_cryptography().not_valid_before_utc < clock.now
