"""Gates that do not behave, as real processes: tiny programs that speak, or do not speak, the control protocol."""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from outpass.broker import memory, supervise
from outpass.broker.gates import Gates
from outpass.broker.spawn import Child, spawn
from outpass.errors import StartError
from outpass.passes import ledger, quota
from outpass.policy.turn import Turn

OPENING = (
    "import json,os,socket,sys,time\n"
    "s=socket.socket(fileno=int(sys.argv[-1]))\n"
    "send=lambda o: s.send(json.dumps(o).encode())\n"
    "start,fds,_,_=socket.recv_fds(s,65536,8)\n"
)
GOOD = OPENING + (
    "send({'op':'ready','pid':os.getpid()})\n"
    "while (data:=s.recv(65536)):\n"
    "    m=json.loads(data)\n"
    "    if m['op']=='drain': send({'op':'audit','records':['last words']}); sys.exit(0)\n"
    "    if 'seq' in m: send({'op':'ack','seq':m['seq']})\n"
    "    else: send({'op':'audit','records':[m]})\n"
)


def starting(*programs: str) -> Callable[[], Child]:
    """Starts these one after the other, the last one for ever."""
    left = list(programs)
    return lambda: spawn(os.environ, [sys.executable, "-c", left.pop(0) if len(left) > 1 else left[0]])


def supervised(work: Callable[[Gates], Coroutine[Any, Any, None]], *programs: str, lost: list[str] | None = None) -> list[Any]:
    """Run `work` with these gates, one at a time; the records that came. `lost` takes how they ended."""
    records: list[Any] = []

    async def whole() -> None:
        start = starting(*programs)
        gate = Gates(
            start={"op": "start"},
            spawn=start,
            jails=list,
            on_record=records.append,
            on_lost=(lost if lost is not None else []).append,
        )
        gate.adopt([start()])
        try:
            await work(gate)
        finally:
            await gate.stop()

    asyncio.run(whole())
    return records


@pytest.mark.parametrize("program", ["", "raise SystemExit(3)", OPENING, OPENING + "send([])\ntime.sleep(60)"])
def test_a_gate_that_never_gets_ready_is_a_refusal_to_start(program: str) -> None:
    async def work(gate: Gates) -> None:
        with pytest.raises(StartError, match="the gate did not start"):
            await gate.wait_ready()

    supervised(work, program)


def test_a_gate_that_hangs_at_its_start_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "READY_S", 0.3)

    async def work(gate: Gates) -> None:
        pid = gate.posts[0].pid
        with pytest.raises(StartError, match="did not start"):
            await gate.wait_ready()
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)

    supervised(work, OPENING + "time.sleep(60)")


def test_what_it_is_told_reaches_it_and_its_last_records_reach_us() -> None:
    async def work(gate: Gates) -> None:
        await gate.wait_ready()
        gate.end_session("j-1", "s-1")
        gate.audit(True)

    ended = {"op": "session.end", "sids": ["s-1"], "revoked": False}
    assert supervised(work, GOOD) == [ended, {"op": "audit", "state": "failing"}, "last words"]


def test_the_next_gate_is_told_that_decisions_cannot_be_recorded() -> None:
    async def work(gate: Gates) -> None:
        await gate.wait_ready()
        gate.audit(True)
        first = gate.posts[0].pid
        os.kill(first or 0, 9)
        while gate.posts[0].pid == first or not gate.ready:
            await asyncio.sleep(0.01)

    told = supervised(work, GOOD)
    assert told.count({"op": "audit", "state": "failing"}) >= 1 and told[-1] == "last words"


def test_the_next_gate_is_told_which_sessions_are_over() -> None:
    async def work(gate: Gates) -> None:
        await gate.wait_ready()
        gate.end_session("j-1", "s-1")
        gate.end_session("j-1", "s-2")
        first = gate.posts[0].pid
        os.kill(first or 0, 9)
        while gate.posts[0].pid == first or not gate.ready:
            await asyncio.sleep(0.01)

    told = [one for one in supervised(work, GOOD) if isinstance(one, dict) and one["op"] == "session.end"]
    assert sorted(told[-1]["sids"]) == ["s-1", "s-2"]


def test_a_gate_that_keeps_ending_is_started_ever_more_slowly_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervise, "SLOWEST_S", 0.5)
    monkeypatch.setattr(supervise, "BEAT_S", 0.05)
    lost: list[str] = []

    async def work(gate: Gates) -> None:
        while len(lost) < 6:
            await asyncio.sleep(0.01)
        assert not gate.ready and not gate.failed.done()

    # It ends at the first beat: one that ends before its "ready" is taken in never was a gate, which is another test.
    supervised(work, OPENING + "send({'op':'ready'})\ns.recv(65536)\nsys.exit(7)", lost=lost)
    said = capfd.readouterr().err
    assert set(lost) == {"ended (exit code 7)"}
    assert said.count("another is started, requests wait") == 2, "what happens once or twice is put right at once"
    assert [said.count(f"started in {s} s, because they keep ending") for s in ("0.25", "0.5")] == [1, 3]


@pytest.mark.parametrize("how", ["time.sleep(3600)", "os.kill(os.getpid(), 19)", "\nwhile True: pass"])
def test_a_gate_that_hangs_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(supervise, "BEAT_S", 0.05)
    lost: list[str] = []

    async def work(gate: Gates) -> None:
        await gate.wait_ready()
        first = gate.posts[0].pid
        while not lost or not gate.ready:
            await asyncio.sleep(0.01)
        assert gate.posts[0].pid != first
        with pytest.raises(ProcessLookupError):
            os.kill(first or 0, 0)

    hanging = OPENING + "send({'op':'ready'})\ns.recv(65536)\n" + how.lstrip()
    supervised(work, hanging, GOOD, lost=lost)
    assert lost[0].startswith("hung, it did not answer")


def test_beats_that_were_missed_because_everything_slept_are_not_held_against_a_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "BEAT_S", 0.05)
    lost: list[str] = []

    async def work(gate: Gates) -> None:
        await gate.wait_ready()
        for _ in range(3):
            time.sleep(1)  # longer than a gate may be silent; nothing asks and nothing answers meanwhile
            await asyncio.sleep(0.12)
        assert gate.ready

    supervised(work, GOOD, lost=lost)
    assert lost == []


def test_a_gate_that_does_not_drain_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "DRAIN_S", 0.2)

    async def work(gate: Gates) -> None:
        await gate.wait_ready()

    supervised(work, OPENING + "send({'op':'ready'})\ntime.sleep(60)")


def test_python_and_tls_debugging_variables_do_not_reach_the_gate() -> None:
    hostile = {**os.environ, "PYTHONPATH": "/evil", "PYTHONSTARTUP": "/evil", "PYTHONINSPECT": "1", "SSLKEYLOGFILE": "/tmp/keys"}
    child = spawn(
        hostile,
        [
            sys.executable,
            "-c",
            "import json,os,socket,sys; socket.socket(fileno=int(sys.argv[-1])).send(json.dumps(dict(os.environ)).encode())",
        ],
    )
    seen = child.control.recv(65536).decode()
    child.control.close()
    child.process.wait()
    assert not any(name in seen for name in ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "SSLKEYLOGFILE"))


@pytest.mark.parametrize(("new", "size"), [(memory.new_ledger, ledger.SIZE_BYTES), (memory.new_quota, quota.SIZE_BYTES)])
def test_what_gates_write_to_together_is_zero_shared_and_of_fixed_size(new: Callable[[], int], size: int) -> None:
    fd = new()
    try:
        assert os.fstat(fd).st_size == size and os.pread(fd, 16, 0) == bytes(16)
        for other in (0, size * 2):
            with pytest.raises(OSError):
                os.ftruncate(fd, other)
    finally:
        os.close(fd)


def test_the_turn_can_be_raised_by_its_maker_alone() -> None:
    fd, turn = memory.new_turn()
    try:
        with pytest.raises(OSError):
            mmap.mmap(fd, 4096)
        with pytest.raises(OSError):
            os.pwrite(fd, b"1", 0)
        with mmap.mmap(fd, 4096, prot=mmap.PROT_READ) as read:
            reader = Turn(read)
            assert (reader.now, turn.advance(), reader.now) == (0, 1, 1)
            with pytest.raises(TypeError):
                reader.advance()
            reader.close()
    finally:
        turn.close()
        os.close(fd)


@pytest.mark.parametrize("size", [0, 8, 8192])
def test_a_turn_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(StartError, match="the memory of turns"):
        Turn(memoryview(bytearray(size)))
