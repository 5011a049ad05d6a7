"""A real gate process on a real control socket, for tests: start it, give it a jail, mint passes, read its records.

Lives here: the broker's half of "Control: broker → gate", as small as it can be. May not live here: a client of the
gate (wire.py), assertions about one feature.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from outpass.broker import keys as broker_keys
from outpass.broker import memory as broker_memory
from outpass.broker import spawn
from outpass.passes import ledger, token
from outpass.policy import document, schema, wire
from outpass.policy.rules import Policy
from tests.support.wire import Wire

REPOSITORY = Path(__file__).parents[2]
_AT = document.Mark(1, 1)


def policy_of(text: str) -> Policy:
    """The policy in YAML text, as the broker would hand it to a gate."""
    return schema.parse([document.Document("test.yaml", _placed(yaml.safe_load(text)))])


def _placed(value: Any) -> Any:
    if isinstance(value, dict):
        mapping = document.Mapping()
        for key, item in value.items():
            mapping.put(str(key), _placed(item), _AT, _AT)
        return mapping
    if isinstance(value, list):
        items = document.Items()
        for item in value:
            items.put(_placed(item), _AT)
        return items
    return value


def memory(data: bytes) -> int:
    """A memfd that holds `data`."""
    fd = os.memfd_create("outpass-test")
    os.write(fd, data) if data else None
    return fd


@dataclass
class Jail:
    """A jail of a running gate."""

    name: str
    port: int
    path: str | None = None


@dataclass
class Gate:
    """`with Gate(policy) as gate:` has one jail, `gate.jail`, on a TCP listener; `gate.connect(...)` talks to it."""

    policy: str
    connect_to: Sequence[tuple[str, int, str, int]] = ()
    bundle: Path | str | None = None
    env: dict[str, str] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    """Overrides fields of the start message."""
    shared: int | None = None
    """The quota of another gate, to count in."""
    name: str = "j-test"
    command: Sequence[str] = (sys.executable, "-m", "outpass.gate")
    records: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Gate:
        self.keys = broker_keys.make(datetime.datetime.now(datetime.UTC))
        self.ledger = memory(bytes(ledger.SIZE_BYTES))
        self.turn_memory, self.turn = broker_memory.new_turn()
        self.shares_memory, _ = broker_memory.new_shares()
        self.quota = broker_memory.new_quota() if self.shared is None else os.dup(self.shared)
        self._serial = 0
        self._seq = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self.spawn()
        self.jail = self.add(self.policy, self.name)
        return self

    def spawn(self) -> None:
        """Start the process and wait until it is ready; again after it was killed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        env = {**os.environ, **spawn.ALLOCATOR, **self.env}
        self.process = subprocess.Popen(
            [*self.command, "--control", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=env,
            stderr=subprocess.PIPE,
            cwd="/",
        )
        theirs.close()
        self.errors: list[str] = []
        threading.Thread(target=self._read_errors, args=(self.process,), daemon=True).start()
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()
        self.send(
            {
                "op": "start",
                "iss": self.keys.iss,
                "keys": self.keys.both(),
                "ca_key": self.keys.ca_key,
                "ca_cert": self.keys.ca_cert,
                "bundle": str(self.bundle) if self.bundle else None,
                "connect_to": [list(c) for c in self.connect_to],
                **self.start,
            },
            [self.ledger, self.turn_memory, self.quota, self.shares_memory],
        )
        end = time.monotonic() + 30
        while not self.ready.wait(0.02):
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the gate did not get ready: {self.process.poll()} {self.errors}")

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.hang_up()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        os.close(self.ledger)
        os.close(self.turn_memory)
        os.close(self.shares_memory)
        os.close(self.quota)

    def hang_up(self) -> None:
        """End the control connection. Shut down first: a close alone waits for the thread that reads from it."""
        try:
            self.control.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.control.close()

    # --- control -----------------------------------------------------------------------------------------------------

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """One packet, as it is."""
        socket.send_fds(self.control, [json.dumps(message).encode()], list(fds))

    def call(self, message: dict[str, Any], fds: Sequence[int] = (), seconds: float = 20) -> dict[str, Any]:
        """One operation and its ack or nack."""
        self._seq += 1
        self.send({**message, "seq": self._seq}, fds)
        with self._changed:
            assert self._changed.wait_for(lambda: self._seq in self._answers, seconds), (
                f"no answer to {message['op']}: {self.errors}"
            )
            return self._answers[self._seq]

    def add(self, policy: str, name: str, *, path: str | None = None, kinds: Sequence[str] = ("http",)) -> Jail:
        """Another jail, on a TCP listener of its own, or on a Unix one at `path`."""
        if path is None:
            sock = socket.create_server(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            sock.listen(16)
            port = 0
        fd = memory(json.dumps(wire.dump(policy_of(policy))).encode())
        message = {"op": "jail.add", "jail": name, "tier": "attributed", "kind": "no-jail", "listeners": list(kinds)}
        answer = self.call(message, [fd, sock.fileno()])
        os.close(fd)
        sock.close()
        assert answer["op"] == "ack", answer
        return Jail(name, port, path)

    def change(self, policy: str, name: str = "") -> dict[str, Any]:
        """Put another policy in force."""
        answer = self.stage(policy, name)
        if answer["op"] != "ack":
            return answer
        self.turn.advance()
        return self.call({"op": "turn"})

    def stage(self, policy: str, name: str = "") -> dict[str, Any]:
        """Hand over a policy that takes force with the next turn."""
        fd = memory(json.dumps(wire.dump(policy_of(policy))).encode())
        answer = self.call({"op": "jail.policy", "jail": name or self.name, "turn": self.turn.now + 1}, [fd])
        os.close(fd)
        return answer

    def _read(self, sock: socket.socket) -> None:
        while True:
            try:
                data = sock.recv(1 << 18)
            except OSError:
                return
            if not data:
                return
            message = json.loads(data)
            with self._changed:
                if message["op"] == "ready":
                    self.ready.set()
                elif message["op"] == "audit":
                    assert len(data) <= 60_000
                    self.records += message["records"]
                else:
                    self._answers[message["seq"]] = message
                self._changed.notify_all()

    def _read_errors(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.errors.append(line.decode().rstrip())

    def wait_records(self, count: int, seconds: float = 10, **fields: Any) -> list[dict[str, Any]]:
        """The records that have `fields`, once there are `count` of them."""

        def found() -> list[dict[str, Any]]:
            return [r for r in self.records if all(r[k] == v for k, v in fields.items())]

        with self._changed:
            ok = self._changed.wait_for(lambda: len(found()) >= count, seconds)
            assert ok, f"{len(found())} of {count} records with {fields} in {self.records}"
            return found()

    # --- passes ------------------------------------------------------------------------------------------------------

    def mint(self, dst: str, *chain: str, use: str = "request", **other: Any) -> str:
        """A pass of this daemon; `chain` of `name` or `name@version`, nearest first; `other` overrides any claim."""
        key = other.pop("key", self.keys.key)
        self._serial += 1
        now = int(time.time())
        host, _, port = dst.rpartition(":")
        pairs = [(n, v or None) for n, _, v in (c.partition("@") for c in chain)]
        made = token.Pass(
            self.name,
            "pkg:pypi/test",
            tuple(n for n, _ in pairs),
            tuple(v for _, v in pairs),
            "s-test",
            use,
            "network:http",
            host.strip("[]"),
            int(port),
            self._serial,
            now,
            now + 30,
            "http",
            None,
            self.keys.iss,
            self.keys.kid,
        )
        return token.mint(made._replace(**other), key)

    # --- talking through it ------------------------------------------------------------------------------------------

    def connect(self, jail: Jail | None = None) -> Wire:
        """A raw connection to the jail's listener."""
        jail = jail or self.jail
        if jail.path is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(20)
            sock.connect(jail.path)
        else:
            sock = socket.create_connection(("127.0.0.1", jail.port), 20)
        return Wire(sock, self)

    def tunnel(
        self,
        dst: str,
        *chain: str,
        sni: str | None = "",
        alpn: Sequence[str] = ("http/1.1",),
        jail: Jail | None = None,
        **claims: Any,
    ) -> Wire:
        """CONNECT with a pass for `dst`, then TLS; `sni=None` sends no server name."""
        host = dst.rpartition(":")[0].strip("[]")
        wire_ = self.connect(jail)
        text = self.mint(dst, *chain, use=claims.pop("use", "connect"), **claims)
        answer = wire_.ask(f"CONNECT {dst} HTTP/1.1\r\nHost: {dst}\r\nProxy-Authorization: Bearer {text}\r\n\r\n")
        assert answer.status == 200, answer
        return wire_.secure(host if sni == "" else sni, verify=host if sni == "" else None, alpn=alpn)

    def tunnel_bare(self, dst: str, *, alpn: Sequence[str] = ("http/1.1",)) -> Wire:
        """CONNECT and TLS without any pass: for a policy that lets unattributed code go there."""
        host = dst.rpartition(":")[0]
        wire_ = self.connect()
        answer = wire_.ask(f"CONNECT {dst} HTTP/1.1\r\nHost: {dst}\r\n\r\n")
        assert answer.status == 200, answer
        return wire_.secure(host, verify=host, alpn=alpn)
