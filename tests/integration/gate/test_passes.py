"""Which passes open a way, and which do not, judged at the origin's log: CONNECT, inside TLS, and absolute form."""

from __future__ import annotations

import time
from typing import Any

import pytest

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.raw_origin import RawOrigin

API = "api.test:443"


def test_a_request_with_its_own_pass_reaches_the_origin_without_it(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe@11.4.0", "app") as wire:
        assert wire.get("/v1/charges?key=sk_live", "api.test", "stripe@11.4.0").status == 200
    (seen,) = origin.wait(1)
    assert seen.head == b"GET /v1/charges?key=sk_live HTTP/1.1\r\nHost: api.test\r\n\r\n"
    record = gate.wait_records(1, path="/v1/charges")[-1]
    assert (record["verdict"], record["reason"], record["principal"], record["version"]) == (
        "allow",
        "allowed",
        "stripe",
        "11.4.0",
    )
    assert (record["override"], record["dialled"]) == (True, f"127.0.0.1:{origin.port}")
    assert "sk_live" not in str(record)


def test_a_denied_request_is_answered_inside_the_tunnel_and_nothing_is_dialled(gate: Gate, origin: RawOrigin) -> None:
    before = origin.connections
    with gate.tunnel(API, "other") as wire:
        answer = wire.get("/v1/charges", "api.test", "other@2")
        assert (answer.status, answer.code) == (403, Reason.NO_RULE)
        assert "other@2 may not GET https://api.test/v1/charges" in answer.problem["title"]
        assert wire.get("/v1/charges", "api.test", "other@2").status == 403, "the connection stays usable"
    assert not origin.seen and origin.connections == before
    trace = answer.problem["instance"].rpartition(":")[2]
    (record,) = gate.wait_records(1, id=trace)
    assert (record["verdict"], record["reason"], record["status"], record["chain"]) == ("deny", "no_rule", 403, ["other@2"])


def test_a_tunnel_that_policy_denies_is_opened_and_every_request_in_it_refused(gate: Gate, origin: RawOrigin) -> None:
    before = origin.connections
    with gate.tunnel("nowhere.test:443", "stripe") as wire:
        answer = wire.get("/", "nowhere.test", "stripe")
        assert (answer.status, answer.code) == (403, Reason.NO_RULE)
        missing = wire.get("/", "nowhere.test")
        assert (missing.status, missing.code) == (403, Reason.NO_RULE), "what CONNECT was denied for"
    assert origin.connections == before


def test_a_denied_connect_through_which_nothing_is_asked_leaves_a_record(gate: Gate) -> None:
    wire = gate.connect()
    text = gate.mint("silent.test:443", "stripe", use="connect")
    assert (
        wire.ask(f"CONNECT silent.test:443 HTTP/1.1\r\nHost: silent.test\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status
        == 200
    )
    wire.sock.close()
    assert gate.wait_records(1, host="silent.test")[0]["reason"] == "no_rule"


def test_two_packages_in_one_tunnel_are_charged_apart(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
        assert wire.get("/v1/a", "api.test", "other").status == 403
        assert wire.get("/other/a", "api.test", "other").status == 200
        assert wire.get("/other/a", "api.test", "stripe").status == 403
    assert [s.line.split()[1] for s in origin.seen] == ["/v1/a", "/other/a"]


def test_a_request_without_a_pass_is_told_that_the_stack_attached_none(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/a", "api.test")
    assert (answer.status, answer.code) == (403, Reason.UNATTRIBUTED)
    assert "attached no pass" in answer.problem["detail"]
    assert not origin.seen


def test_connect_without_a_pass_is_asked_for_one_and_the_connection_stays(gate: Gate, origin: RawOrigin) -> None:
    wire = gate.connect()
    answer = wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\n\r\n")
    assert (answer.status, answer.code) == (407, Reason.PASS_MISSING)
    assert "proxy-authenticate" in answer.headers
    text = gate.mint(API, "stripe", use="connect")
    assert wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
    assert wire.secure("api.test", verify="api.test").get("/v1/a", "api.test", "stripe").status == 200


def test_unattributed_code_goes_where_policy_lets_it(gate: Gate, origin: RawOrigin, plain: RawOrigin) -> None:
    wire = gate.connect()
    assert wire.ask("CONNECT open.test:443 HTTP/1.1\r\nHost: open.test\r\n\r\n").status == 200
    assert wire.secure("open.test", verify="open.test").get("/x", "open.test").status == 200
    assert gate.connect().plain("http://open.test/y", "open.test").status == 200
    assert gate.connect().plain("http://plain.test/v1/y", "plain.test").status == 407
    assert len(origin.seen) == 1 and len(plain.seen) == 1
    assert gate.wait_records(2, host="open.test")[0]["principal"] == "unattributed"


def _bad(gate: Gate, case: str, dst: str, use: str) -> tuple[str, Reason]:
    """A pass that must not be honoured, and why."""
    chain = ("stripe",)
    now = int(time.time())
    made: dict[str, Any] = {
        "forged": lambda: (gate.mint(dst, *chain, use=use, key=bytes(32)), Reason.PASS_FORGED),
        "tampered": lambda: (_flip(gate.mint(dst, *chain, use=use)), Reason.PASS_FORGED),
        "expired": lambda: (gate.mint(dst, *chain, use=use, iat=now - 100, exp=now - 70), Reason.PASS_EXPIRED),
        "foreign": lambda: (gate.mint(dst, *chain, use=use, jail="j-other"), Reason.PASS_FOREIGN_JAIL),
        "elsewhere": lambda: (gate.mint("other.test:443", *chain, use=use), Reason.PASS_WRONG_DESTINATION),
        "other port": lambda: (gate.mint(dst.rpartition(":")[0] + ":8443", *chain, use=use), Reason.PASS_WRONG_DESTINATION),
        "channel": lambda: (gate.mint(dst, *chain, use="channel"), Reason.PASS_WRONG_USE),
        "socket": lambda: (
            gate.mint(dst, *chain, use=use, cap="network:socket"),
            Reason.NO_CAPABILITY if use == "connect" else Reason.PASS_WRONG_USE,
        ),
        "other use": lambda: (
            gate.mint(dst, *chain, use="connect" if use == "request" else "request"),
            Reason.PASS_WRONG_USE,
        ),
        "other daemon": lambda: (gate.mint(dst, *chain, use=use, iss="outpass:beef"), Reason.PASS_FORGED),
        "nonsense": lambda: ("nonsense", Reason.PASS_MALFORMED),
        "empty": lambda: ("", Reason.PASS_MALFORMED),
    }
    pair: tuple[str, Reason] = made[case]()
    return pair


def _flip(text: str) -> str:
    head, _, signature = text.rpartition(".")
    return f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


CASES = [
    "forged", "tampered", "expired", "foreign", "elsewhere", "other port", "channel", "socket", "other use", "other daemon",
    "nonsense", "empty",
]  # fmt: skip


def test_a_channel_pass_covers_its_tunnel(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe", use="channel") as wire:
        assert wire.get("/v1/a", "api.test").status == 200, "without a pass of its own"
        assert wire.get("/other/a", "api.test").code == Reason.NO_RULE, "and no further than its holder may"
    assert [r.line for r in origin.seen] == ["GET /v1/a HTTP/1.1"]


@pytest.mark.parametrize("case", [c for c in CASES if c != "channel"])
def test_connect_refuses_a_bad_pass(gate: Gate, origin: RawOrigin, case: str) -> None:
    text, reason = _bad(gate, case, API, "connect")
    before = origin.connections
    with gate.connect() as wire:
        answer = wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n")
    assert (answer.status, answer.code) == (403, reason)
    assert origin.connections == before
    assert gate.wait_records(1, id=answer.problem["instance"].rpartition(":")[2])[0]["reason"] == reason


@pytest.mark.parametrize("case", CASES)
def test_a_request_in_a_tunnel_refuses_a_bad_pass(gate: Gate, origin: RawOrigin, case: str) -> None:
    text, reason = _bad(gate, case, API, "request")
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.ask(f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {text}\r\n\r\n")
    assert (answer.status, answer.code) == (403, reason)
    assert not origin.seen


@pytest.mark.parametrize("case", [c for c in CASES if c != "other port"])
def test_an_absolute_form_request_refuses_a_bad_pass(gate: Gate, plain: RawOrigin, case: str) -> None:
    text, reason = _bad(gate, case, "plain.test:80", "request")
    with gate.connect() as wire:
        head = f"GET http://plain.test/v1/a HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        answer = wire.ask(head)
    assert (answer.status, answer.code) == (403, reason)
    assert not plain.seen


def test_a_pass_is_good_once_and_only_once(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        text = gate.mint(API, "stripe")
        head = f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {text}\r\n\r\n"
        assert wire.ask(head).status == 200
        assert wire.ask(head).code == Reason.PASS_REPLAYED
    connect = gate.mint(API, "stripe", use="connect")
    head = f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {connect}\r\n\r\n"
    assert gate.connect().ask(head).status == 200
    assert gate.connect().ask(head).code == Reason.PASS_REPLAYED
    assert len(origin.seen) == 1


def test_a_pass_that_was_refused_for_its_destination_is_not_spent_by_that(gate: Gate, origin: RawOrigin) -> None:
    text = gate.mint(API, "stripe")
    with gate.tunnel("open.test:443", "stripe") as wire:
        answer = wire.ask(f"GET / HTTP/1.1\r\nHost: open.test\r\nOutpass-Token: {text}\r\n\r\n")
        assert answer.code == Reason.PASS_WRONG_DESTINATION
    with gate.tunnel(API, "stripe") as wire:
        assert wire.ask(f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {text}\r\n\r\n").status == 200


@pytest.mark.parametrize("header", ["Outpass-Token", "Proxy-Authorization"])
def test_two_passes_are_refused(gate: Gate, origin: RawOrigin, header: str) -> None:
    prefix = "Bearer " if header.startswith("Proxy") else ""
    with gate.tunnel(API, "stripe") as wire:
        lines = "".join(f"{header}: {prefix}{gate.mint(API, 'stripe')}\r\n" for _ in range(2))
        answer = wire.ask(f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\n{lines}\r\n")
        assert (answer.status, answer.code) == (400, Reason.PASS_DUPLICATED)
    assert not origin.seen


def test_a_denial_pass_is_refused_for_its_reason_although_policy_would_allow(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/a", "api.test", "stripe", deny=Reason.VERSION_OUT_OF_RANGE)
    assert (answer.status, answer.code) == (403, Reason.VERSION_OUT_OF_RANGE)
    assert not origin.seen


def test_a_spawn_pass_as_user_name_covers_the_tunnel(gate: Gate, origin: RawOrigin) -> None:
    spawn = gate.mint("*:0", "stripe", "app", use="spawn", exp=int(time.time()) + 3600)
    for _ in range(2):
        with gate.connect() as wire:
            assert wire.basic(API, spawn).status == 200
            inner = wire.secure("api.test", verify="api.test")
            assert [inner.get("/v1/a", "api.test").status for _ in range(2)] == [200, 200]
            assert inner.get("/other/a", "api.test").code == Reason.NO_RULE
    assert len(origin.seen) == 4
    assert not any(s.header("proxy-authorization") for s in origin.seen)


@pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "Basic !!!", "Digest x", "Bearer", "Basic"])
def test_credentials_that_are_no_pass_are_refused(gate: Gate, value: str) -> None:
    with gate.connect() as wire:
        answer = wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: {value}\r\n\r\n")
    assert (answer.status, answer.code) == (403, Reason.PASS_MALFORMED)


def test_an_ended_session_ends_its_passes_also_in_a_tunnel_that_is_open(gate: Gate, origin: RawOrigin) -> None:
    spawn = gate.mint("*:0", "stripe", use="spawn", sid="s-ended")
    with gate.connect() as wire:
        assert wire.basic(API, spawn).status == 200
        inner = wire.secure("api.test", verify="api.test")
        assert inner.get("/v1/a", "api.test").status == 200
        gate.call({"op": "session.end", "sids": ["s-ended"]})
        assert inner.get("/v1/a", "api.test").code == Reason.PASS_SESSION_ENDED
        assert inner.get("/v1/a", "api.test", "stripe", sid="s-ended").code == Reason.PASS_SESSION_ENDED
    with gate.connect() as wire:
        assert wire.basic(API, spawn).code == Reason.PASS_SESSION_ENDED
    assert len(origin.seen) == 1


def test_an_empty_chain_is_somebody_unknown(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        text = gate.mint(API)
        answer = wire.ask(f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {text}\r\n\r\n")
    assert answer.status == 403 and answer.problem["package"] == "?"
    assert not origin.seen


def test_no_pass_and_no_field_that_speaks_to_a_proxy_is_ever_forwarded(gate: Gate, origin: RawOrigin, plain: RawOrigin) -> None:
    extra = "Proxy-Authorization: Bearer x.y.z\r\nProxy-Connection: keep-alive\r\nKeep-Alive: 5\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nX-Kept: 1\r\n"
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe", extra=extra).status == 200
    assert (
        gate.connect()
        .plain("http://plain.test/v1/a", "plain.test", "stripe", extra="Outpass-Token: x\r\nProxy-Connection: close\r\n")
        .status
        == 200
    )
    assert origin.seen[0].head == b"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX-Kept: 1\r\nConnection: keep-alive\r\n\r\n"
    assert plain.seen[0].head == b"GET /v1/a HTTP/1.1\r\nHost: plain.test\r\n\r\n"
