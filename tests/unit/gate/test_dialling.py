"""Happy eyeballs (RFC 8305): one address that swallows packets costs its stagger, and only addresses that were decided are dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from outpass.gate import dialling
from outpass.gate.pins import Pin


class Net:
    """Addresses that answer, refuse or say nothing; notes who was tried, and what was closed."""

    def __init__(self, **kinds: str) -> None:
        self.kinds = kinds
        self.tried: list[str] = []
        self.made: dict[str, socket.socket] = {}
        self.cancelled: list[str] = []
        self.given_up: list[str] = []
        """Soon after somebody won."""

    async def connect(self, address: str, port: int) -> socket.socket:
        self.tried.append(address)
        kind = self.kinds[address.replace(".", "_").replace(":", "_")]
        try:
            if kind == "silent":
                await asyncio.Event().wait()
            while kind == "together" and len(self.tried) < 2:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(address)
            raise
        if kind == "refuses":
            raise ConnectionRefusedError(111, "refused")
        self.made[address] = socket.socket()
        return self.made[address]


def race(net: Net, addresses: Sequence[str], monkeypatch: pytest.MonkeyPatch, stagger: float = 0.01) -> str:
    monkeypatch.setattr(dialling, "_connect", net.connect)
    monkeypatch.setattr(dialling, "STAGGER_S", stagger)
    pin = Pin(tuple(addresses), 443, False, 0.0)

    async def run() -> None:
        won = await dialling.dial(pin, "api.test")
        for _ in range(5):
            await asyncio.sleep(0)
        # Now, and not when the loop ends, which cancels whatever is left.
        net.given_up = [*net.cancelled, *(a for a, sock in net.made.items() if sock.fileno() == -1)]
        won.close()

    asyncio.run(run())
    assert pin.chosen is not None
    return pin.chosen


def test_an_address_that_says_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(v6_1="silent", v4_1="answers", v4_2="answers")
    assert race(net, ["v6:1", "v4.1", "v4.2"], monkeypatch) == "v4.1"
    assert (net.tried, net.given_up) == (["v6:1", "v4.1"], ["v6:1"])


def test_the_first_that_answers_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(v6_1="answers", v4_1="answers")
    assert race(net, ["v6:1", "v4.1"], monkeypatch, stagger=30) == "v6:1"
    assert net.tried == ["v6:1"]


def test_a_refusal_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(v6_1="refuses", v4_1="answers")
    assert race(net, ["v6:1", "v4.1"], monkeypatch, stagger=30) == "v4.1"


def test_when_all_refuse_so_does_the_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(v6_1="refuses", v4_1="refuses")
    with pytest.raises(ConnectionRefusedError):
        race(net, ["v6:1", "v4.1"], monkeypatch)
    assert net.tried == ["v6:1", "v4.1"]


def test_when_all_are_silent_the_whole_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "CONNECT_S", 0.1)
    net = Net(v6_1="silent", v4_1="silent")
    with pytest.raises(TimeoutError):
        race(net, ["v6:1", "v4.1"], monkeypatch)
    assert sorted(net.cancelled) == ["v4.1", "v6:1"]


def test_two_that_answer_at_once_leave_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(v6_1="together", v4_1="together")
    won = race(net, ["v6:1", "v4.1"], monkeypatch)
    assert sorted(net.made) == ["v4.1", "v6:1"]
    assert net.given_up == [a for a in net.tried if a != won], "whoever lost is closed"


def test_families_take_turns_and_the_resolvers_first_choice_stays_first() -> None:
    assert dialling.alternating(["6:a", "6:b", "6:c", "4.a", "4.b"]) == ["6:a", "4.a", "6:b", "4.b", "6:c"]
    assert dialling.alternating(["4.a", "6:a", "6:b"]) == ["4.a", "6:a", "6:b"]
    assert dialling.alternating([]) == []
