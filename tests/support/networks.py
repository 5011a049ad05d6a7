"""The network that a machine sits in: its addresses, its resolver's zone, the servers that can be reached, those that swallow packets.

Lives here: a namespace of its own with such a network in it, and a command that runs there. May not live here: assertions.
Run as `python -m tests.support.networks PLAN.json` inside `unshare --net --mount [--map-root-user]`; prints what happened as JSON.
Every address is one of the namespace's own loopback: nothing of the machine's network is used or changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

PORT: Final = 80
_ROOT: Final = Path(__file__).resolve().parent.parent.parent


@dataclass
class Network:
    """What there is outside."""

    resolver: str
    zone: dict[str, list[str]]
    """Name → its addresses; a name that is not in it does not exist."""
    servers: list[str]
    """Each answers on port 80 with its own address."""
    silent: list[str] = field(default_factory=list)
    """Each swallows every SYN to port 80."""


@dataclass
class Seen:
    """What came of a command there."""

    code: int
    out: str
    err: str
    queries: list[str]
    """`name TYPE`, as the resolver was asked."""
    reached: list[str]
    """Addresses of the servers that were connected to, in order."""


def within(where: Path, network: Network, command: list[str], env: dict[str, str], cwd: Path) -> Seen:
    """Run `command` in such a network."""
    plan = where / "network.json"
    plan.write_text(json.dumps({"network": asdict(network), "command": command, "env": env, "cwd": str(cwd)}))
    unshare = ["unshare", "--net", "--mount"] + ([] if os.getuid() == 0 else ["--map-root-user"])
    driver = [*unshare, sys.executable, "-m", "tests.support.networks", str(plan)]
    done = subprocess.run(driver, cwd=_ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return Seen(**json.loads(done.stdout))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _addresses(network: Network) -> None:
    """Without 127.0.0.1 and ::1 counting, the machine has the families that these addresses have."""
    _ip("link", "set", "lo", "up")
    for address in dict.fromkeys([network.resolver, *network.servers, *network.silent]):
        six = ":" in address
        _ip("addr", "add", f"{address}/{128 if six else 32}", "dev", "lo", *(["nodad"] if six else []))


def _bound(address: str, port: int, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    return sock


def _serve(address: str, reached: list[str]) -> None:
    listening = _bound(address, PORT, socket.SOCK_STREAM)
    listening.listen(16)

    def serve() -> None:
        while True:
            peer, _ = listening.accept()
            reached.append(address)
            body = address.encode()
            with contextlib.suppress(OSError), peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    threading.Thread(target=serve, daemon=True).start()


def _swallow(address: str) -> list[socket.socket]:
    """A listener whose queue is full: the kernel drops each SYN that comes."""
    listening = _bound(address, PORT, socket.SOCK_STREAM)
    listening.listen(0)
    filling = socket.create_connection((address, PORT))
    return [listening, filling]


def _resolve(network: Network, queries: list[str]) -> None:
    sock = _bound(network.resolver, 53, socket.SOCK_DGRAM)

    def answer(data: bytes) -> bytes:
        asked = dns.message.from_wire(data)
        (question,) = asked.question
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype
        queries.append(f"{name} {dns.rdatatype.to_text(kind)}")
        told = dns.message.make_response(asked, recursion_available=True)
        found = network.zone.get(name)
        if found is None:
            told.set_rcode(dns.rcode.NXDOMAIN)
        for address in found or ():
            if kind is (dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A):
                told.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, address))
        return told.to_wire()

    def serve() -> None:
        while True:
            data, peer = sock.recvfrom(4096)
            with contextlib.suppress(dns.exception.DNSException):
                sock.sendto(answer(data), peer)

    threading.Thread(target=serve, daemon=True).start()


def main() -> None:
    """Sets the network up, runs the plan's command, prints a Seen."""
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    network = Network(**plan["network"])
    _addresses(network)
    resolv = Path(sys.argv[1]).with_name("resolv.conf")
    resolv.write_text(f"nameserver {network.resolver}\noptions timeout:2 attempts:2\n")
    subprocess.run(["mount", "--bind", str(resolv), os.path.realpath("/etc/resolv.conf")], check=True)
    queries: list[str] = []
    reached: list[str] = []
    kept = [_swallow(address) for address in network.silent]
    for address in network.servers:
        _serve(address, reached)
    _resolve(network, queries)
    done = subprocess.run(
        plan["command"], env=plan["env"], cwd=plan["cwd"], capture_output=True, text=True, timeout=90, check=False
    )
    print(json.dumps(asdict(Seen(done.returncode, done.stdout, done.stderr, queries, reached))))
    del kept


if __name__ == "__main__":
    main()
