"""What several gates are told, and when it counts as told: tiny programs in the gates' place, and a real turn."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from outpass.broker import control
from outpass.broker.control import Control
from outpass.broker.gates import Gates
from outpass.broker.jails import InForce
from outpass.broker.spawn import ALLOCATOR, Child, spawn
from outpass.broker.synthetic import Addresses, Key
from outpass.errors import StartError
from outpass.policy import decide
from tests.support.gate import policy_of

OLD = policy_of("version: 1\npackages: {}\n")
NEW = policy_of("version: 1\npackages: {six: {allow: []}}\n")
GATE = (
    "import json,mmap,os,socket,sys,time\n"
    "s=socket.socket(fileno=int(sys.argv[-1]))\n"
    "send=lambda o: s.send(json.dumps(o).encode())\n"
    "_,fds,_,_=socket.recv_fds(s,65536,8)\n"
    "turn=memoryview(mmap.mmap(fds[1],4096,prot=mmap.PROT_READ)).cast('Q')\n"
    "send({'op':'ready','pid':os.getpid()})\n"
    "while (data:=s.recv(65536)):\n"
    "    m=json.loads(data)\n"
    "    if m['op']=='drain': sys.exit(0)\n"
    "    if m['op']!='beat': send({'op':'audit','records':[{**m,'turn':turn[0],'at':m.get('turn'),'pid':os.getpid()}]})\n"
    "    PECULIAR\n"
    "    if 'seq' in m: send({'op':'ack','seq':m['seq']})\n"
)
GOOD = GATE.replace("PECULIAR", "pass")
SLOW = GATE.replace("PECULIAR", "time.sleep(0.5 if m['op'] in ('jail.policy', 'address') else 0)")
REFUSES = GATE.replace("PECULIAR", "if m['op']=='jail.policy': send({'op':'nack','seq':m['seq'],'error':'no'}); continue")
DIES = GATE.replace("PECULIAR", "if m['op']=='jail.policy': sys.exit(9)")


def in_force(policy: Any) -> InForce:
    compiled = decide.compile(policy)
    return InForce(compiled, policy, compiled.digest, "enforce", ())


def a_jail() -> Any:
    return SimpleNamespace(
        id="j-1", tier="attributed", kind="no-jail", kinds=(), listeners=(), search=(), closing=False, live=True,
        force=in_force(OLD), addresses=Addresses(lambda: 0.0),
    )  # fmt: skip


def with_gates(work: Callable[[Gates, Any, list[Any]], Coroutine[Any, Any, None]], *programs: str) -> list[Any]:
    """Run `work` with a jail in gates that run these programs; whoever comes after one is a GOOD one. What they were told."""
    told: list[Any] = []

    async def whole() -> None:
        jail = a_jail()
        programs_left: Iterator[str] = iter(programs)

        def start() -> Child:
            return spawn(os.environ, [sys.executable, "-c", next(programs_left, GOOD)])

        gates = Gates(start={}, spawn=start, jails=lambda: [jail], on_record=told.append, on_lost=lambda _: None)
        gates.adopt([start() for _ in programs])
        try:
            await gates.wait_all()
            await work(gates, jail, told)
        finally:
            await gates.stop()

    asyncio.run(whole())
    return told


def of(told: list[Any], op: str) -> list[Any]:
    return [one for one in told if one["op"] == op]


def test_a_policy_takes_force_when_the_slowest_gate_has_it_and_not_before() -> None:
    async def work(gates: Gates, jail: Any, told: list[Any]) -> None:
        new = in_force(NEW)
        changing = asyncio.ensure_future(gates.change([(jail, new)]))
        while len(of(told, "jail.policy")) < 2:
            await asyncio.sleep(0.01)
        assert jail.force.policy == OLD, "the broker decides by the old one as long as the gates do"
        await changing
        assert jail.force is new

    told = with_gates(work, GOOD, SLOW)
    assert [one["turn"] for one in of(told, "jail.policy")] == [0, 0] and [one["at"] for one in of(told, "jail.policy")] == [1, 1]
    assert [one["turn"] for one in of(told, "turn")] == [1, 1]


def test_a_gate_that_refuses_a_policy_keeps_it_out_of_force_everywhere() -> None:
    async def work(gates: Gates, jail: Any, told: list[Any]) -> None:
        with pytest.raises(StartError, match="the gate refused: no"):
            await gates.change([(jail, in_force(NEW))])
        assert jail.force.policy == OLD

    told = with_gates(work, GOOD, REFUSES)
    assert [one["turn"] for one in of(told, "policy.drop")] == [0, 0] and of(told, "turn") == []


def test_a_gate_that_dies_over_a_policy_is_replaced_by_one_that_never_hears_of_the_old_one() -> None:
    async def work(gates: Gates, jail: Any, told: list[Any]) -> None:
        await gates.change([(jail, in_force(NEW))])
        assert jail.force.policy == NEW
        while len(of(told, "jail.add")) < 3:
            await asyncio.sleep(0.01)

    told = with_gates(work, GOOD, DIES)
    assert of(told, "jail.add")[-1]["turn"] == 1, "it was given the jail after the turn, with what was in force then"
    assert of(told, "policy.drop") == []


def test_every_gate_knows_an_address_before_it_counts_as_known() -> None:
    async def work(gates: Gates, jail: Any, told: list[Any]) -> None:
        entry, _ = jail.addresses.give(Key(None, (), "db.internal"))
        telling = asyncio.ensure_future(gates.address(jail, entry, ()))
        while len(of(told, "address")) < 2:
            await asyncio.sleep(0.01)
        assert not entry.told
        await telling
        assert entry.told

    told = with_gates(work, GOOD, SLOW)
    assert len({one["pid"] for one in of(told, "address")}) == 2


def test_a_renewed_ca_reaches_the_gates_that_are_there_and_those_that_come() -> None:
    async def work(gates: Gates, jail: Any, told: list[Any]) -> None:
        gates.renew_ca("PEM")
        assert gates.start(gates.posts[1])[0] == {"ca_cert": "PEM", "gate": 1, "gates": 2}

    assert [one["ca_cert"] for one in of(with_gates(work, GOOD, GOOD), "ca")] == ["PEM", "PEM"]


class Scarce:
    """A listener of a process that has no descriptors left, until it has."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.tries = 0

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, _: bool) -> None:
        pass

    def close(self) -> None:
        self.fd = -1

    def accept(self) -> Any:
        self.tries += 1
        raise OSError(24, "Too many open files") if self.tries < 3 else BlockingIOError


def test_a_control_listener_without_descriptors_waits_instead_of_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PAUSE_S", 0.2)
    read, write = os.pipe()
    os.write(write, b"x")  # readable for ever, as a listener is whose connection cannot be accepted
    listener: Any = Scarce(read)

    async def work() -> None:
        serving = Control(SimpleNamespace())  # type: ignore[arg-type]
        serving.listen(listener)
        await asyncio.sleep(0.1)
        assert listener.tries == 1
        while listener.tries < 3:
            await asyncio.sleep(0.01)
        await serving.stop()

    asyncio.run(work())
    os.close(read)
    os.close(write)


SAYS = "import os, socket, sys; socket.socket(fileno=int(sys.argv[2])).send('\\n'.join(f'{k}={v}' for k, v in os.environ.items()).encode())"


def test_a_gate_keeps_the_memory_of_large_reads_and_gets_none_of_pythons_variables() -> None:
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": "/evil", "SSLKEYLOGFILE": "/keys", "MALLOC_TOP_PAD_": "7"}
    child = spawn(given, [sys.executable, "-c", SAYS])
    child.control.settimeout(30)
    said = dict(line.split("=", 1) for line in child.control.recv(100_000).decode().split("\n"))
    child.process.wait(30)
    child.control.close()
    assert said["MALLOC_TRIM_THRESHOLD_"] == ALLOCATOR["MALLOC_TRIM_THRESHOLD_"]
    assert said["MALLOC_TOP_PAD_"] == "7", "the operator's own wins"
    assert not {"PYTHONPATH", "SSLKEYLOGFILE"} & said.keys()
