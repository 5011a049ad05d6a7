"""A daemon that goes on where another ended: what its processes had, they have, and what they had not, they have not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Control, Puppet, claims, daemon

POLICY = "version: 1\npackages:\n  app: {allow: [network:http], http: ['http://plain.test/**']}\n"
SPAWN = {"use": "spawn", "dst": "*:0", "tls": False}


class Launcher:
    """One jail with one process, launched by this process, over as many daemons as a test likes."""

    def __init__(self, where: Path) -> None:
        self.policy = where / "outpass.yaml"
        self.policy.write_text(POLICY)
        self.door = socket.create_server(("127.0.0.1", 0))
        self.jail = ""
        self.control: Control | None = None

    def order(self, control: Control, **extra: Any) -> dict[str, Any]:
        source = {"file": str(self.policy), "allow": [], "deny_all": False, "mode": None}
        body = {"op": "jail.open", "kind": "no-jail", "label": "a test", "cwd": "/", "roots": ["/srv"], "policy": source}
        self.door.listen()  # a daemon that ends makes it refuse
        self.control = control
        return control.ask({**body, **extra}, [self.door.fileno()])

    def begin(self, control: Control) -> Puppet:
        reply = self.order(control)
        assert reply["ok"], reply
        self.jail = reply["jail"]
        puppet = Puppet(reply["mint"])
        assert control.ask({"op": "jail.proc", "pid": puppet.pid})["ok"]
        return puppet


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    made = Launcher(tmp_path)
    with contextlib.closing(made.door):
        yield made


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_session_its_children_and_their_passes_go_on(how: int, launcher: Launcher, tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        puppet = launcher.begin(first.control())
        before = puppet.hello()
        lent = puppet.mint("left-pad", "app", **SPAWN)["pass"]
        first.end(how)
    with daemon(tmp_path) as second, puppet:
        assert launcher.order(second.control(), again=launcher.jail)["ok"]
        assert puppet.say(op="mint") is None, "the connection ended with its daemon"
        assert claims(puppet.mint("app")["pass"])["sid"] == before["sid"], "no hello is needed"
        shed, kept = puppet.do(
            {"child": [{"say": hello()}]},
            {"child": [{"say": hello(spawn=lent)}, {"say": mint("app")}]},
        )
        assert shed[0]["error"] == "spawn_pass_required", "a restart is no way to shed the spawner"
        assert claims(kept[1]["pass"])["chain"] == ["app", "!left-pad", "app"], "nobody proved left-pad, then or now"


def hello(**changes: Any) -> dict[str, Any]:
    from tests.support.daemon import HELLO

    return {**HELLO, **changes}


def mint(*chain: str) -> dict[str, Any]:
    from tests.support.daemon import request

    return request(*chain)


def test_a_session_that_was_revoked_stays_revoked(launcher: Launcher, tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        puppet = launcher.begin(first.control())
        sid = puppet.hello()["sid"]
        lent = puppet.mint("app", **SPAWN)["pass"]
        assert first.admin("POST", f"/v1/sessions/{sid}/revoke")[0] == 200
        first.end(signal.SIGKILL)
    with daemon(tmp_path) as second, puppet:
        assert launcher.order(second.control(), again=launcher.jail)["ok"]
        puppet.say(op="mint")
        assert puppet.hello()["error"] == "session_refused"
        assert puppet.do({"child": [{"say": hello(spawn=lent)}]})[0][0]["error"] == "session_refused"


def test_the_ca_goes_on_and_passes_for_one_use_do_not(launcher: Launcher, tmp_path: Path) -> None:
    """What the first daemon's ledger knew is gone, so what it signed for one use must be void."""
    with daemon(tmp_path) as first:
        puppet = launcher.begin(first.control())
        puppet.hello()
        ca = (tmp_path / "run" / "ca.pem").read_bytes()
        unused, lent = puppet.mint("app", dst="plain.test:80", tls=False)["pass"], puppet.mint("app", **SPAWN)["pass"]
        first.end(signal.SIGKILL)
    with daemon(tmp_path) as second, puppet:
        assert launcher.order(second.control(), again=launcher.jail)["ok"]
        assert (tmp_path / "run" / "ca.pem").read_bytes() == ca
        assert ask(launcher.door, unused) == b"403", "signed by a key that nobody has any more"
        assert ask(launcher.door, lent) == b"502", "allowed, and there is no such host"
        launcher.door = socket.create_server(("127.0.0.1", 0))


def ask(door: socket.socket, text: str) -> bytes:
    with socket.create_connection(door.getsockname(), 30) as sock:
        head = f"GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        sock.sendall(head.encode())
        return sock.recv(100).split()[1]


def test_a_jail_that_ended_and_one_that_never_was_do_not_come_back(launcher: Launcher, tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        with launcher.begin(first.control()):
            assert launcher.control is not None and launcher.control.ask({"op": "jail.close"})["ok"]
        ca = (tmp_path / "run" / "ca.pem").read_bytes()
        first.end(signal.SIGTERM)
    assert not (tmp_path / "run" / "journal").exists(), "keys are kept for open jails only"
    with daemon(tmp_path) as second:
        assert (tmp_path / "run" / "ca.pem").read_bytes() != ca
        for name in (launcher.jail, "j-00000000", 7):
            reply = launcher.order(second.control(), again=name)
            assert not reply["ok"] and "does not know the jail" in reply["error"], reply


def test_only_its_own_launcher_goes_on_with_a_jail(launcher: Launcher, tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        puppet = launcher.begin(first.control())
        first.end(signal.SIGKILL)
    with daemon(tmp_path) as second, puppet:
        pid = os.fork()
        if pid == 0:  # another process of the same user
            reply = launcher.order(second.control(), again=launcher.jail)
            os._exit(0 if "does not know the jail" in reply.get("error", "") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        holding = second.control()  # kept: its end would be the jail's
        assert launcher.order(holding, again=launcher.jail)["ok"]
        taken = launcher.order(second.control(), again=launcher.jail)
        assert not taken["ok"] and "open already" in taken["error"]
