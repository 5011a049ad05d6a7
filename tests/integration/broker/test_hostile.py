"""What code of the same user can do to the daemon's sockets: floods, nonsense that only fails where it is used, slow directories.

Lives here: that the daemon answers or hangs up, keeps nothing, says no traceback, and that other jails do not notice. May not
live here: who gets a session (sessions/).
"""

from __future__ import annotations

import array
import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import HELLO, Puppet, RunningDaemon, daemon, request
from tests.support.waiting import until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running
        assert "Traceback" not in running.said()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "outpass.yaml"
    path.write_text('version: 1\npackages:\n  app: {allow: [network:http], http: ["https://api.example.com/**"]}\n')
    return path


def member(served: RunningDaemon, policy: Path, puppet: Puppet) -> None:
    """`puppet` becomes the registered process of a jail of its own, which lasts as long as the daemon."""
    control = served.control()
    assert control.open(policy)["ok"]
    assert control.ask({"op": "jail.proc", "pid": puppet.pid}) == {"ok": True}
    KEPT.append(control)


KEPT: list[Any] = []


@pytest.mark.parametrize(
    ("why", "message"),
    [
        ("a root with a NUL", {"roots": ["/a\0b"]}),
        ("a root that is no text", {"roots": ["/a\ud800b"]}),
        ("a policy file with a NUL", {"policy": {"file": "/a\0b", "allow": [], "deny_all": False, "mode": None}}),
        ("a pid beyond all pids", {"op": "jail.proc", "pid": 2**31}),
        ("a pid beyond all numbers", {"op": "jail.proc", "pid": 10**30}),
    ],
)
def test_what_only_fails_where_it_is_used_is_answered_too(
    served: RunningDaemon, policy: Path, why: str, message: dict[str, Any]
) -> None:
    source = {"file": str(policy), "allow": [], "deny_all": False, "mode": None}
    body = {"op": "jail.open", "kind": "no-jail", "label": "x", "cwd": "/", "roots": ["/srv"], "policy": source}
    with socket.create_server(("127.0.0.1", 0)) as door:
        control = served.control()
        if "op" in message:
            assert control.open(policy)["ok"]
        told = control.ask({**body, **message}, [] if "op" in message else [door.fileno()])
        assert told is not None and "makes no sense" in told["error"], why
        assert control.ask({"op": "nothing"})["error"] == "the daemon does not know this operation", "it still listens"
        control.close()


def test_whoever_sends_on_without_reading_answers_is_not_kept(served: RunningDaemon, policy: Path) -> None:
    table = f"/proc/{served.process.pid}/fd"
    with socket.create_server(("127.0.0.1", 0)) as door:
        before = len(os.listdir(table))
        control = served.control()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [door.fileno()] * 32))]
        packets = iter(range(5_000))
        with contextlib.suppress(OSError):
            for _ in packets:
                control.sock.sendmsg([b'{"op":"nothing"}'], rights)
        assert next(packets, None) is not None, "it hung up"
        until("its descriptors to be closed", lambda: len(os.listdir(table)) <= before)
        control.close()
    other = served.control()
    assert other.open(policy)["ok"]
    other.close()


def test_a_body_that_is_nested_without_end_is_a_bad_request(served: RunningDaemon) -> None:
    connection = http.client.HTTPConnection("admin")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(served.ready["admin"])
    connection.request("POST", "/v1/explain", b"[" * 30_000 + b"]" * 30_000, {"Outpass-Client": "1"})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (400, "not_json")
    connection.close()


def test_a_jail_whose_directories_take_long_to_read_keeps_nobody_else_waiting(
    served: RunningDaemon, policy: Path, tmp_path: Path
) -> None:
    """Lists of files, 16 MB each, hard links to one: six processes of one jail bring a directory of them each."""
    big = tmp_path / "big"
    big.write_text("".join(f"a/b{i}.txt,,\n" for i in range(1_000_000))[: 16 << 20])
    replies: list[Any] = []
    with contextlib.ExitStack() as stack:
        honest = stack.enter_context(Puppet(served.ready["mint"]))
        member(served, policy, honest)
        control = served.control()
        assert control.open(policy)["ok"]
        slow = []
        for s in range(6):
            site = tmp_path / str(s) / "site-packages"
            for n in range(6):
                info = site / f"d{n}-1.dist-info"
                info.mkdir(parents=True)
                os.link(big, info / "RECORD")
            puppet = stack.enter_context(Puppet(served.ready["mint"]))
            assert control.ask({"op": "jail.proc", "pid": puppet.pid}) == {"ok": True}

            def greet(puppet: Puppet = puppet, site: Path = site) -> None:
                replies.append(puppet.hello(paths=[str(site)]))

            slow.append(threading.Thread(target=greet))
        for thread in slow:
            thread.start()
        until("the first of them", lambda: replies)
        assert "sid" in honest.hello()
        assert len(replies) < 4, "nobody waits behind another jail's queue"
        for thread in slow:
            thread.join()
    assert all("sid" in reply for reply in replies), replies
    control.close()


def test_many_connections_of_one_process_that_say_hello_at_once_need_one_map(
    served: RunningDaemon, policy: Path, tmp_path: Path
) -> None:
    with Puppet(served.ready["mint"]) as puppet:
        member(served, policy, puppet)
        before = len(list((Path(served.ready["mint"]).parents[1] / "maps").iterdir()))
        (replies,) = puppet.do({"threads": 100, "message": {**HELLO, "paths": [str(tmp_path)]}})
        assert len({reply["sid"] for reply in replies}) == 1
        made = len(list((Path(served.ready["mint"]).parents[1] / "maps").iterdir())) - before
        assert made == 1, made


def test_messages_that_are_padded_are_answered_and_not_kept(served: RunningDaemon, policy: Path) -> None:
    def resident() -> int:
        lines = Path(f"/proc/{served.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

    with Puppet(served.ready["mint"]) as puppet:
        member(served, policy, puppet)
        puppet.hello()
        for n in range(1_000):
            if n == 100:  # what any work costs it is there by now
                before = resident()
            told = puppet.say(**request("app", dst=f"h{n}.example.com:443"), padding="x" * 60_000)
            assert told["deny"] == "no_rule"
        assert resident() - before < 27_000, "KiB; 900 such messages are 54 000"
