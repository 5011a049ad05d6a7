"""Several gates behind one daemon: they share listeners, one-use, policies and sessions, and one that dies is not missed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from outpass.audit import store
from tests.support.daemon import Control, Puppet, RunningDaemon, daemon
from tests.support.proc import open_files
from tests.support.raw_origin import RawOrigin
from tests.support.waiting import until

GRANTED = (
    "version: 1\npackages:\n"
    "  app: {allow: [network:http], http: ['http://plain.test/**']}\n"
    "  unattributed: {allow: [network:http], http: ['http://plain.test/free/**', 'http://plain.test/kept/**']}\n"
)
REFUSED = GRANTED.replace("/free/", "/other/")
ROUNDS = 6
DST = "plain.test:80"


class Seen(NamedTuple):
    """One request: when it began and was answered, on one clock, and how."""

    begun: float
    ended: float
    status: int


class Jail:
    """An open jail with its listener's address, and a member of it that mints."""

    def __init__(self, running: RunningDaemon, control: Control, address: tuple[str, int], puppet: Puppet, policy: Path) -> None:
        self.running, self.control, self.address, self.puppet, self.policy = running, control, address, puppet, policy

    def minted(self) -> str:
        return str(self.puppet.mint("app", dst=DST, tls=False)["pass"])

    def ask(self, text: str = "", path: str = "/x") -> int:
        """The status of one request on a connection of its own."""
        with socket.create_connection(self.address, 30) as sock:
            return ask(sock, text, path)

    def reload(self, text: str) -> None:
        self.policy.write_text(text)
        assert self.control.ask({"op": "reload"})["ok"]


def ask(sock: socket.socket, text: str = "", path: str = "/x") -> int:
    line = f"Proxy-Authorization: Bearer {text}\r\n" if text else ""
    sock.sendall(f"GET http://plain.test{path} HTTP/1.1\r\nHost: plain.test\r\n{line}\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        part = sock.recv(65536)
        if not part:
            raise ConnectionError(f"dropped after {got!r}")
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(int(h.split(b":")[1]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length"))
    while len(body) < length:
        body += sock.recv(65536)
    return int(head.split()[1])


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A gate that does nothing for a moment (shorter than what counts as hung), so that another serves."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until("stopped", lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    where = tmp_path_factory.mktemp("gates")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1, 1_024), hard))  # as a login shell has it
    try:
        with RawOrigin("plain.test", tls=False) as plain:
            with daemon(where, "--gates", "2", "--connect-to", f"plain.test:80:127.0.0.1:{plain.port}") as made:
                assert made.ready["ok"], made.said()
                yield made
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def jail(running: RunningDaemon, tmp_path: Path) -> Iterator[Jail]:
    policy = tmp_path / "outpass.yaml"
    policy.write_text(GRANTED)
    control = running.control()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as door, Puppet(running.ready["mint"]) as puppet:
        address = door.getsockname()
        assert control.open(policy, listener=door.dup())["ok"]
        door.close()
        assert control.ask({"op": "jail.proc", "pid": puppet.pid})["ok"]
        assert puppet.hello()["sid"]
        until("both gates", lambda: len(running.gate_pids()) == 2 and running.admin("GET", "/readyz")[0] == 200)
        yield Jail(running, control, address, puppet, policy)
        control.close()


def test_both_serve_and_a_pass_that_one_burned_is_refused_by_the_other(jail: Jail) -> None:
    one, two = jail.running.gate_pids()
    text = jail.minted()
    with stopped(one):
        assert jail.ask(text) == 200
    with stopped(two):
        assert jail.ask(text) == 403
        assert jail.ask(jail.minted()) == 200
    told = jail.control.ask({"op": "jail.close"})["summary"]
    assert (told["allowed"], told["denied"]) == (2, 1), "records of both"


def connections(pid: int, port: int) -> int:
    """How many connections to a port of this machine a process holds."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    inodes = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "01"}
    return sum(held in inodes for held in open_files(pid))


def test_connections_that_stay_are_shared_out_evenly(jail: Jail) -> None:
    """Also after one was replaced: a gate with more leaves new ones to the other."""
    gates = jail.running.gate_pids()
    with contextlib.ExitStack() as stack:

        def held() -> list[int]:
            return [connections(pid, jail.address[1]) for pid in gates]

        before = held()
        for _ in range(12):
            stack.enter_context(socket.create_connection(jail.address, 30))
            count = sum(held())
            until("accepted", lambda count=count: sum(held()) >= count)
        until("all accepted", lambda: sum(held()) - sum(before) == 12)
        taken = [now - then for now, then in zip(held(), before, strict=True)]
        assert min(taken) >= 3, taken


def test_a_pass_shown_to_both_at_the_same_time_is_honoured_once(jail: Jail) -> None:
    passes = [jail.minted() for _ in range(40)]
    statuses: list[int] = []
    barrier = threading.Barrier(4)

    def show() -> None:
        with socket.create_connection(jail.address, 30) as sock:
            for text in passes:
                barrier.wait(60)
                statuses.append(ask(sock, text))

    threads = [threading.Thread(target=show) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) == 40 and statuses.count(403) == 120


def test_a_session_that_is_revoked_is_over_at_both_and_for_a_gate_that_comes_later(jail: Jail) -> None:
    sid = next(s["sid"] for s in jail.running.admin("GET", "/v1/sessions")[1]["sessions"] if s["pid"] == jail.puppet.pid)
    passes = [jail.minted() for _ in range(3)]
    assert jail.running.admin("POST", f"/v1/sessions/{sid}/revoke")[0] == 200
    one, two = jail.running.gate_pids()
    for gate, text in ((one, passes[0]), (two, passes[1])):
        with stopped(gate):
            assert jail.ask(text) == 403
    os.kill(one, signal.SIGKILL)
    successor = new_gate(jail.running, {one, two})
    with stopped(two):
        assert jail.ask(passes[2]) == 403
    assert successor in jail.running.gate_pids()


def new_gate(running: RunningDaemon, before: set[int]) -> int:
    return int(until("another gate", lambda: next(iter(set(running.gate_pids()) - before), 0)))


def test_while_one_is_replaced_the_other_serves_and_the_successor_knows_the_jail(jail: Jail) -> None:
    one, two = jail.running.gate_pids()
    os.kill(one, signal.SIGKILL)
    assert jail.ask(jail.minted()) == 200, "the other serves meanwhile"
    new_gate(jail.running, {one, two})
    with stopped(two):
        assert jail.ask(jail.minted()) == 200, "waits in the listener's queue until the successor is there"
    log = jail.running.errors.parent / "audit.db"
    until("a record of it", lambda: any(r["reason"] == "gate_lost" and "signal 9" in r["detail"] for r in store.read(log)))


def hammer(jail: Jail, path: str, done: threading.Event, seen: list[Seen], broken: list[str]) -> None:
    """Requests without a pause on one connection after the other, until `done`."""
    while not done.is_set():
        with contextlib.suppress(OSError), socket.create_connection(jail.address, 60) as sock:
            while not done.is_set():
                begun = time.monotonic()
                try:
                    status = ask(sock, path=path)
                except OSError as e:
                    broken.append(repr(e))
                    raise
                seen.append(Seen(begun, time.monotonic(), status))


def test_a_reload_takes_force_in_both_at_one_instant_and_drops_no_request(jail: Jail) -> None:
    """Judged by what clients saw: no request that began after another was answered by the new policy got the old one's."""
    seen: list[Seen] = []
    kept: list[Seen] = []
    cut: list[str] = []
    broken: list[str] = []
    done = threading.Event()
    works = [("/free/x", seen, cut)] * 4 + [("/kept/x", kept, broken)] * 3
    threads = [threading.Thread(target=hammer, args=(jail, path, done, told, lost)) for path, told, lost in works]
    for thread in threads:
        thread.start()
    marks = [time.monotonic()]
    try:
        for n in range(ROUNDS):
            enough = len(seen) + 30
            until("requests between two reloads", lambda enough=enough: broken or len(seen) > enough, 60)
            jail.reload(REFUSED if n % 2 == 0 else GRANTED)
            marks.append(time.monotonic())
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert broken == [] and {s.status for s in kept} == {200}, "what both policies allow goes on undisturbed"
    assert len(cut) <= 4 * ROUNDS, "a request whose right is taken away while it is under way is cut off"
    for n in range(ROUNDS):
        new = 407 if n % 2 == 0 else 200
        within = [s for s in seen if marks[n] <= s.begun and s.ended <= marks[min(n + 2, ROUNDS)]]
        first_new = min((s.ended for s in within if s.status == new), default=marks[n + 1])
        late = [s for s in within if s.begun > min(first_new, marks[n + 1]) and s.ended <= marks[n + 1]]
        assert [s for s in late if s.status != new] == []


def test_while_nothing_can_be_recorded_both_refuse_and_then_both_serve_again(jail: Jail) -> None:
    def room(size: int) -> None:
        resource.prlimit(jail.running.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def answered(status: int) -> None:
        for gate in jail.running.gate_pids():
            with stopped(gate):
                until(f"{status} from the other", lambda: jail.ask(path="/free/x") == status, 9)

    room(2_000)
    try:
        until("refusal", lambda: jail.ask(path="/free/x") == 503)
        answered(503)
    finally:
        room(resource.RLIM_INFINITY)
    until("recovery", lambda: jail.ask(path="/free/x") == 200)
    answered(200)


def test_gates_may_open_as_many_descriptors_as_the_hard_limit_gives(running: RunningDaemon) -> None:
    for gate in running.gate_pids():
        soft, hard = resource.prlimit(gate, resource.RLIMIT_NOFILE)
        assert soft == hard


def test_sigterm_finishes_what_is_under_way_and_takes_on_nothing_new(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        while not go.is_set():
            await asyncio.sleep(0.01)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
        await writer.drain()

    policy = tmp_path / "outpass.yaml"
    policy.write_text(GRANTED)
    with RawOrigin("plain.test", tls=False, scripts={"/free/slow": slow}) as plain:
        with (
            daemon(tmp_path, "--gates", "2", "--connect-to", f"plain.test:80:127.0.0.1:{plain.port}") as running,
            socket.create_server(("127.0.0.1", 0)) as door,
            contextlib.closing(running.control()) as control,
        ):
            assert control.open(policy, listener=door.dup())["ok"]
            address = door.getsockname()
            door.close()
            with socket.create_connection(address, 30) as sock, ThreadPoolExecutor(1) as pool:
                answer = pool.submit(ask, sock, "", "/free/slow")
                assert begun.wait(30)
                running.process.send_signal(signal.SIGTERM)
                until("no listener", lambda: socket.socket().connect_ex(address) != 0)
                assert running.process.poll() is None, "it waits for what is under way"
                go.set()
                assert answer.result(30) == 200
            assert running.process.wait(30) == 0
    assert [r["verdict"] for r in store.read(tmp_path / "audit.db") if r["path"] == "/free/slow"] == ["allow"]
