"""A name whose owner answers the gate's resolver as it likes: every address is judged, none is dialled that was not."""

from __future__ import annotations

import http.client
import socket
import time

import pytest

from outpass.gate import pins
from outpass.model import Decision, EgressRequest
from outpass.policy import decide
from outpass.reasons import Reason
from tests.support.gate import policy_of
from tests.support.inprocess import InProcess, in_process
from tests.support.raw_origin import RawOrigin

PUBLIC = "93.184.215.14"
POLICY = """
version: 1
packages:
  unattributed:
    allow: [network:http]
    http:
      - "http://evil.test:{port}/**"
      - {{url: "http://inner.test:{port}/**", private: ["10.0.0.0/8"]}}
"""


def _decide(port: int) -> object:
    compiled = decide.compile(policy_of(POLICY.format(port=port)))

    def answer(request: EgressRequest) -> Decision:
        return decide.decide(compiled, request, now=time.time())

    return answer


def _get(gate: InProcess, url: str) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", gate.port), 10) as sock:
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        response = http.client.HTTPResponse(sock, method="GET")
        response.begin()
        return response.status, response.read()


def _answers(gate: InProcess, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let the gate's resolver give these answers, one after the other, the last for ever; returns the names it was asked."""
    asked: list[str] = []

    async def fake(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

    monkeypatch.setattr(gate.loop, "getaddrinfo", fake)
    return asked


ANSWERS = {
    "loopback": (["127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    "all of 127/8": (["127.9.9.9"], Reason.ADDRESS_LOOPBACK),
    "this host": (["0.0.0.0"], Reason.ADDRESS_LOOPBACK),
    "a good one first": ([PUBLIC, "127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    "a good one last": (["10.0.0.1", PUBLIC], Reason.ADDRESS_PRIVATE),
    "metadata": (["169.254.169.254"], Reason.ADDRESS_METADATA),
    "metadata over IPv6": (["fd00:ec2::254"], Reason.ADDRESS_METADATA),
    "mapped": (["::ffff:127.0.0.1"], Reason.ADDRESS_LOOPBACK),
    "mapped in hexadecimal": (["::ffff:a9fe:a9fe"], Reason.ADDRESS_METADATA),
    "compatible": (["::7f00:1"], Reason.ADDRESS_LOOPBACK),
    "translated": (["64:ff9b::7f00:1"], Reason.ADDRESS_LOOPBACK),
    "translated locally": (["64:ff9b:1::a00:1"], Reason.ADDRESS_PRIVATE),
    "6to4": (["2002:7f00:1::"], Reason.ADDRESS_LOOPBACK),
    "Teredo": (["2001:0:4136:e378:8000:63bf:80ff:fffe"], Reason.ADDRESS_LOOPBACK),
    "with a zone": (["fe80::1%lo"], Reason.ADDRESS_METADATA),
    "site-local": (["fec0::1"], Reason.ADDRESS_PRIVATE),
    "unique local": (["fc00::1"], Reason.ADDRESS_PRIVATE),
    "multicast": (["224.0.0.1"], Reason.ADDRESS_RESERVED),
    "broadcast": (["255.255.255.255"], Reason.ADDRESS_RESERVED),
    "carrier": (["100.64.0.1"], Reason.ADDRESS_PRIVATE),
    "nothing": ([], Reason.RESOLVE_FAILED),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_name_that_stands_for_an_address_it_may_not_is_refused(
    plain: RawOrigin, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    addresses, reason = ANSWERS[case]
    before = plain.connections
    with in_process(_decide(plain.port)) as gate:  # type: ignore[arg-type]
        _answers(gate, monkeypatch, addresses)
        status, body = _get(gate, f"http://evil.test:{plain.port}/x")
        assert (status, f'"{reason.value}"'.encode() in body) == (502 if reason is Reason.RESOLVE_FAILED else 403, True)
        assert not any(a.encode() in body for a in addresses), "what it resolves to is a fact about the host"
        assert gate.wait_records(1)[-1]["reason"] == reason
    assert plain.connections == before


def test_a_private_rule_opens_its_network_and_nothing_beside_it(plain: RawOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_process(_decide(plain.port)) as gate:  # type: ignore[arg-type]
        for addresses in (["10.0.0.1", "192.168.0.1"], ["::ffff:127.0.0.1", "10.0.0.1"], ["100.100.100.200"]):
            _answers(gate, monkeypatch, addresses)
            assert _get(gate, f"http://inner.test:{plain.port}/x")[0] == 403


def test_an_answer_that_changes_is_judged_again(plain: RawOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "FRESH_S", -1.0)
    before = plain.connections
    with in_process(_decide(plain.port)) as gate:  # type: ignore[arg-type]
        asked = _answers(gate, monkeypatch, [PUBLIC], ["127.0.0.1"])

        async def refuse(*_: object, **__: object) -> None:
            raise ConnectionRefusedError(111, "refused")

        monkeypatch.setattr("outpass.gate.dialling.race", refuse)
        with socket.create_connection(("127.0.0.1", gate.port), 10) as sock:
            statuses = []
            for n in range(2):
                sock.sendall(f"GET http://evil.test:{plain.port}/{n} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                response = http.client.HTTPResponse(sock, method="GET")
                response.begin()
                statuses.append((response.status, response.read()))
                if response.will_close:
                    break
        if len(statuses) == 1:
            statuses.append(_get(gate, f"http://evil.test:{plain.port}/again"))
    assert [s for s, _ in statuses] == [502, 403] and Reason.ADDRESS_LOOPBACK.value.encode() in statuses[1][1]
    assert asked == ["evil.test"] * 2 and plain.connections == before


def test_a_name_that_is_denied_is_not_looked_up(plain: RawOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_process(_decide(plain.port)) as gate:  # type: ignore[arg-type]
        asked = _answers(gate, monkeypatch, [PUBLIC])
        assert _get(gate, f"http://secret-data.evil.test:{plain.port}/")[0] == 407
        assert _get(gate, "http://evil.test/")[0] == 407
    assert asked == []


def test_a_request_whose_name_is_being_resolved_when_its_session_is_revoked_is_not_sent(
    plain: RawOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process() as gate:

        async def fake(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            gate.jail.revoked.add(None)  # type: ignore[arg-type]  # the request carries no pass, so that is its session
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(gate.loop, "getaddrinfo", fake)
        before = len(plain.seen)
        status, body = _get(gate, f"http://slow.test:{plain.port}/")
        assert (status, b"pass_session_ended" in body, len(plain.seen)) == (403, True, before), body
