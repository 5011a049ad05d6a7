"""A network namespace with an outside: 203.0.113.5 stands for the internet, and an attacker listens there.

Lives here: the namespace, the attacker's servers and what they got. May not live here: attacks, outpass.
Run as `python -m tests.support.outside PLAN.json` inside `unshare --net [--map-root-user] --mount`; prints what arrived as JSON.
The machine's own network stays as it is: loopback of a new namespace is all that is used.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

OUTSIDE = "203.0.113.5"
"""TEST-NET-3 (RFC 5737): never routed anywhere."""
PORT = 7777


def _serve(log: list[str]) -> None:
    """TCP and UDP on OUTSIDE:PORT, and DNS on OUTSIDE:53: everything that arrives is logged, before any answer."""

    def tcp() -> None:
        with socket.create_server((OUTSIDE, PORT)) as server:
            while True:
                peer, _ = server.accept()
                log.append("tcp: connected")
                peer.settimeout(1)
                try:
                    log.append(f"tcp: {peer.recv(4096)!r}")
                    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                except OSError:
                    pass
                peer.close()

    def udp(port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((OUTSIDE, port))
            while True:
                data, _ = server.recvfrom(4096)
                log.append(f"udp/{port}: {data!r}")

    for target, args in ((tcp, ()), (udp, (PORT,)), (udp, (53,))):
        threading.Thread(target=target, args=args, daemon=True).start()


def main() -> None:
    """Sets the namespace up, runs the plan's command, prints {"code", "out", "err", "arrived"}."""
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "addr", "add", f"{OUTSIDE}/32", "dev", "lo"], check=True)
    resolv = Path(sys.argv[1]).with_name("resolv.conf")
    resolv.write_text(f"nameserver {OUTSIDE}\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(resolv), os.path.realpath("/etc/resolv.conf")], check=True)
    arrived: list[str] = []
    _serve(arrived)
    done = subprocess.run(
        plan["command"], env=plan["env"], cwd=plan["cwd"], capture_output=True, text=True, timeout=90, check=False
    )
    time.sleep(0.3)  # what was sent before the end may still be on its way through loopback
    print(json.dumps({"code": done.returncode, "out": done.stdout, "err": done.stderr, "arrived": arrived}))


def inside(where: Path, command: list[str], env: dict[str, str], cwd: Path) -> dict[str, Any]:
    """Runs `command` in a namespace with an outside; returns code, out, err and what arrived at the attacker."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "plan.json").write_text(json.dumps({"command": command, "env": env, "cwd": str(cwd)}))
    root = Path(__file__).resolve().parent.parent.parent
    unshare = ["unshare", "--net", "--mount"] + ([] if os.getuid() == 0 else ["--map-root-user"])
    driver = [*unshare, sys.executable, "-m", "tests.support.outside", str(where / "plan.json")]
    done = subprocess.run(driver, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


if __name__ == "__main__":
    main()
