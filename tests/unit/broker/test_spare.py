"""The gate in reserve: it takes over, it holds nothing before, and it ends with its broker. A real one, and tiny programs in its place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from outpass.broker import spare
from outpass.broker.gates import Gates
from outpass.broker.spawn import SPARE, Child, spawn, starter
from tests.support.daemon import is_gate
from tests.unit.broker.test_supervise import GOOD


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.01)


def program(text: str) -> Callable[[], Child]:
    return lambda: spawn(os.environ, [sys.executable, "-c", text])


def reserved(
    work: Callable[[Gates, list[str]], Coroutine[Any, Any, None]], gate: Callable[[], Child], kept: Callable[[], Child] | None
) -> list[str]:
    """Run `work` with one gate and one in reserve; how gates were lost."""
    lost: list[str] = []

    async def whole() -> None:
        gates = Gates(start={"op": "start"}, spawn=gate, jails=list, on_record=lambda _: None, on_lost=lost.append, spare=kept)
        gates.adopt([gate()])
        try:
            await gates.wait_ready()
            await work(gates, lost)
        finally:
            await gates.stop()

    asyncio.run(whole())
    return lost


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "AFTER_S", 0.0)


def kill(pid: int | None) -> None:
    assert pid
    os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("_at_once")
def test_it_takes_the_place_of_a_gate_that_ends_and_another_is_kept() -> None:
    async def work(gates: Gates, _: list[str]) -> None:
        for _ in range(2):
            await until(lambda: gates.ready and gates._spare.pid)
            waiting = gates._spare.pid
            kill(gates.posts[0].pid)
            await until(lambda waiting=waiting: gates.ready and gates.posts[0].pid == waiting)
        assert gates._spare.pid != waiting

    assert reserved(work, program(GOOD), program(GOOD)) == ["ended (signal 9)"] * 2


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("text", ["", "import socket,sys; socket.socket(fileno=int(sys.argv[-1])).send(b'{}'); input()"])
def test_one_that_ends_or_speaks_unasked_is_none(text: str) -> None:
    """Its end is noticed by itself, so that nothing is left of it; and the next gate is started then."""
    started: list[Child] = []

    def start() -> Child:
        started.append(program(text)())
        return started[-1]

    async def work(gates: Gates, _: list[str]) -> None:
        await until(lambda: started and started[0].process.returncode is not None)
        assert gates._spare.pid is None and started[0].control.fileno() == -1
        before = gates.posts[0].pid
        kill(before)
        await until(lambda: gates.ready and gates.posts[0].pid != before)
        assert gates.posts[0].pid != started[0].process.pid

    reserved(work, program(GOOD), start)


@pytest.mark.usefixtures("_at_once")
def test_it_ends_with_the_daemon_and_none_is_started_after() -> None:
    kept: list[Child] = []

    def start() -> Child:
        kept.append(program(GOOD)())
        return kept[-1]

    async def work(gates: Gates, _: list[str]) -> None:
        await until(lambda: gates._spare.pid)

    reserved(work, program(GOOD), start)
    assert [child.process.returncode for child in kept] == [-signal.SIGKILL]


def test_a_short_run_starts_none_and_several_gates_have_none() -> None:
    def start() -> Child:
        raise AssertionError("it was started")

    async def work(gates: Gates, _: list[str]) -> None:
        before = gates.posts[0].pid
        kill(before)
        await until(lambda: gates.ready and gates.posts[0].pid != before)

    reserved(work, program(GOOD), start)
    assert starter(os.environ, 1).spare is not None and starter(os.environ, 2).spare is None


def test_a_real_one_has_imported_everything_and_holds_nothing_but_its_connection_to_the_broker() -> None:
    child = spawn({**os.environ, "SSLKEYLOGFILE": "/nowhere"}, SPARE)
    at = Path(f"/proc/{child.process.pid}")
    try:
        # The loop waits for the broker's first word, on that socket and its own pair.
        asyncio.run(until(lambda: held(at) == ["/dev/null", "anon_inode:[eventpoll]", *["socket"] * 3]))
        assert not is_gate(child.process.pid), "and nobody takes it for one that serves"
        assert "/_rust" in (at / "maps").read_text() and "memfd:outpass" not in (at / "maps").read_text()
        assert b"SSLKEYLOGFILE" not in (at / "environ").read_bytes()
        child.control.shutdown(socket.SHUT_RDWR)
        assert child.process.wait(20) == 1, "whenever the broker is gone, it ends"
    finally:
        child.control.close()
        child.process.kill()
        child.process.wait()


def held(process: Path) -> list[str]:
    """What its descriptors are, without standard output and error."""
    found = []
    for fd in set(os.listdir(process / "fd")) - {"1", "2"}:
        with contextlib.suppress(FileNotFoundError):  # a module that it was just reading
            link = os.readlink(process / "fd" / fd)
            found.append("socket" if link.startswith("socket:") else link)
    return sorted(found)
