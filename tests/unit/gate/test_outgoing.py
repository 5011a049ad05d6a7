"""Records on their way to the broker: batches, order, and what happens when it does not read."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import pytest

from outpass.gate.budget import Budgets
from outpass.gate.gate import Gate
from outpass.gate.outgoing import MAX_BACKLOG, MAX_PACKET, Outgoing
from outpass.passes import quota
from outpass.policy import turn
from outpass.policy.turn import Turn
from outpass.reasons import Reason


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def _read(sock: socket.socket) -> list[dict[str, Any]]:
    packets = []
    while True:
        try:
            data = sock.recv(1 << 18)
        except BlockingIOError:
            return packets
        if not data:
            return packets
        assert len(data) <= MAX_PACKET
        packets.append(json.loads(data))


def test_records_travel_in_batches_and_answers_do_not_overtake_them() -> None:
    async def run() -> list[dict[str, Any]]:
        ours, theirs = _pair()
        out = Outgoing(ours, asyncio.get_running_loop(), lambda: None)
        for n in range(70):
            out.record({"n": n}, now=False)
        assert _read(theirs) == [], "nothing yet: it waits for more"
        out.post({"op": "ack", "seq": 1})
        out.record({"n": 70}, now=True)
        await out.drained()
        return _read(theirs)

    packets = asyncio.run(run())
    assert [p["op"] for p in packets] == ["audit", "ack", "audit"]
    assert [r["n"] for p in packets if p["op"] == "audit" for r in p["records"]] == list(range(71))


def test_a_denial_leaves_at_once_and_an_allowed_request_a_little_later() -> None:
    async def run() -> None:
        ours, theirs = _pair()
        out = Outgoing(ours, asyncio.get_running_loop(), lambda: None)
        out.record({"n": 1}, now=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(_read(theirs)) == 1
        out.record({"n": 2}, now=False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert _read(theirs) == []
        await out.drained()
        assert len(_read(theirs)) == 1

    asyncio.run(run())


@pytest.mark.parametrize("size", [10, 5_000, 30_000])
def test_packets_fit_whatever_the_records_weigh(size: int) -> None:
    async def run() -> list[dict[str, Any]]:
        ours, theirs = _pair()
        out = Outgoing(ours, asyncio.get_running_loop(), lambda: None)
        got: list[dict[str, Any]] = []
        for n in range(40):
            out.record({"n": n, "x": "y" * size}, now=True)
        while out.backlog:
            await asyncio.sleep(0)
            got += _read(theirs)
        return got + _read(theirs)

    packets = asyncio.run(run())
    assert [r["n"] for p in packets for r in p["records"]] == list(range(40))


def test_a_broker_that_does_not_read_loses_nothing_and_stops_decisions() -> None:
    async def run() -> None:
        ours, theirs = _pair()
        out = Outgoing(ours, asyncio.get_running_loop(), lambda: None)
        budgets = Budgets(quota.Quota(memoryview(bytearray(quota.SIZE_BYTES))), time.monotonic_ns)
        gate = Gate(out, {}, Turn(bytearray(turn.SIZE_BYTES)), budgets)
        assert gate.unavailable() is None
        count = MAX_BACKLOG + 6_000
        for n in range(count):
            out.record({"n": n, "x": "y" * 100}, now=False)
            if n % 1000 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert gate.unavailable() is Reason.AUDIT_UNAVAILABLE
        got: list[int] = []
        while len(got) < count:
            got += [r["n"] for p in _read(theirs) for r in p["records"]]
            await asyncio.sleep(0)
        assert got == list(range(count))
        assert gate.unavailable() is None

    asyncio.run(run())


def test_a_broker_that_is_gone_ends_the_gate() -> None:
    async def run() -> bool:
        ours, theirs = _pair()
        ended: list[bool] = []
        out = Outgoing(ours, asyncio.get_running_loop(), lambda: ended.append(True))
        theirs.close()
        out.record({"n": 1}, now=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return bool(ended)

    assert asyncio.run(run())
