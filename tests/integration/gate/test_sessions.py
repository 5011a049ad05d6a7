"""TLS sessions are resumed by whoever began them, and by nobody else: not across packages, processes or jails."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
import trustme

from outpass.reasons import Reason
from tests.integration.gate.conftest import POLICY
from tests.support.gate import Gate, Jail
from tests.support.raw_origin import RawOrigin
from tests.support.wire import Wire

API = "api.test:443"


class Client:
    """A client that keeps its last session, as any HTTP library may."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(cadata=gate.keys.ca_cert)
        self.session: ssl.SSLSession | None = None

    def asks(self, *chain: str, jail: Jail | None = None, **claims: str) -> bool:
        """One request over a new connection; whether the gate resumed the session of the last."""
        wire = self.gate.connect(jail)
        claims = {"jail": jail.name if jail else self.gate.name, **claims}
        connect = self.gate.mint(API, *chain, use="connect", **claims)
        assert wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {connect}\r\n\r\n").status == 200
        sock = self.context.wrap_socket(wire.sock, server_hostname="api.test", session=self.session)
        with Wire(sock, self.gate) as inner:
            answer = inner.get("/v1/x", "api.test", *chain, **claims)
            self.status, self.session = answer.status, sock.session
            return bool(sock.session_reused)


def _hits(origin: RawOrigin) -> int:
    return origin.context.session_stats()["hits"]


def _until_kept(client: Client, origin: RawOrigin, *chain: str, **claims: str) -> bool:
    """Whether the origin sees a session again; the gate keeps one when its connection has ended, which takes a moment."""
    before, end = _hits(origin), time.monotonic() + 30
    while time.monotonic() < end:
        client.asks(*chain, **claims)
        if _hits(origin) > before:
            return True
    return False


def test_a_client_resumes_its_own_session(gate: Gate) -> None:
    client = Client(gate)
    assert [client.asks("stripe", "app") for _ in range(3)] == [False, True, True]
    assert client.status == 200


@pytest.mark.parametrize("other", [{"chain": ("stripe",)}, {"sid": "s-another"}], ids=["chain", "process"])
def test_nobody_resumes_a_session_of_another_chain_or_process(gate: Gate, other: dict[str, object]) -> None:
    client = Client(gate)
    client.asks("stripe", "app")
    chain = other.get("chain", ("stripe", "app"))
    assert isinstance(chain, tuple)
    claims = {k: str(v) for k, v in other.items() if k == "sid"}
    assert not client.asks(*chain, **claims), "another party's ticket is noise"


def test_nobody_resumes_a_session_of_another_jail(gate: Gate) -> None:
    jail = gate.add(POLICY, "j-other")
    client = Client(gate)
    client.asks("stripe", sid="s-one")
    assert not client.asks("stripe", sid="s-one", jail=jail)
    assert client.status == 200


def test_a_session_with_an_origin_is_resumed_by_its_own_party_only(gate: Gate, origin: RawOrigin) -> None:
    client = Client(gate)
    assert _until_kept(client, origin, "stripe", sid="s-two")
    seen = _hits(origin)
    jail = gate.add(POLICY, "j-third")
    for chain, claims in ((("stripe", "app"), {"sid": "s-two"}), (("stripe",), {"sid": "s-three"})):
        assert not client.asks(*chain, **claims) and client.status == 200
    assert not client.asks("stripe", sid="s-two", jail=jail) and client.status == 200
    assert _hits(origin) == seen, "to an origin, two parties are two clients"


def test_an_origin_that_is_another_now_is_checked_again(tmp_path: Path) -> None:
    with RawOrigin("api.test") as first:
        assert first.ca is not None
        first.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        with Gate(POLICY, connect_to=[("api.test", 443, "127.0.0.1", first.port)], bundle=tmp_path / "ca.pem") as gate:
            client = Client(gate)
            assert _until_kept(client, first, "stripe")
            trustme.CA().issue_cert("api.test").configure_cert(first.context)
            first.context.num_tickets = 0
            end = time.monotonic() + 30
            statuses = set()
            while 502 not in statuses and time.monotonic() < end:
                client.asks("stripe")
                statuses.add(client.status)
            assert 502 in statuses
            assert gate.wait_records(1, kind="fault")[0]["reason"] == Reason.UPSTREAM_TLS
