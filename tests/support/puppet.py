"""A process that says to the mint socket what a test tells it to: run as `python puppet.py MINT`, JSON lines on stdin.

Lives here: saying, forking, exec, starting children. May not live here: anything that a shim decides, or assertions.

Each line is a list of steps, answered with the list of their results. Steps:
  {"say": {…}}            on this process's connection (made when needed); the reply, or null when the connection closed
  {"raw": "text"}         the same with these bytes
  {"again": true}         drop the connection; the next step makes a new one
  {"fork": [steps]}       in a child by fork() that keeps the open connection; its results
  {"orphan": [steps]}     the same in a grandchild whose parent is gone
  {"child": [steps]}      in a new program started by this one
  {"threads": n}          n threads with a connection each say hello-less mints; their replies
  {"exec": true}          become a new puppet under the same pid, which answers with an empty list
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

MINT = sys.argv[1]
SOCK: list[socket.socket] = []


def connect() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(20)
    sock.connect(MINT)
    return sock


def exchange(sock: socket.socket, data: bytes) -> Any:
    try:
        sock.send(data)
        reply = sock.recv(1 << 17)
    except (BrokenPipeError, ConnectionResetError):
        return None
    return json.loads(reply) if reply else None


def say(data: bytes) -> Any:
    if not SOCK:
        SOCK.append(connect())
    reply = exchange(SOCK[0], data)
    if reply is None:
        SOCK.pop().close()
    return reply


def in_fork(steps: list[dict[str, Any]], orphan: bool) -> Any:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if orphan:
            parent = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == parent:
                pass
        os.write(write, json.dumps(perform(steps)).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as results:
        return json.loads(results.read())


def in_child(steps: list[dict[str, Any]]) -> Any:
    done = subprocess.run(
        [sys.executable, __file__, MINT], input=json.dumps(steps) + "\n", capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def in_threads(message: dict[str, Any], count: int) -> list[Any]:
    replies: list[Any] = []

    def work() -> None:
        with connect() as sock:
            replies.append(exchange(sock, json.dumps(message).encode()))

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def perform(steps: list[dict[str, Any]]) -> list[Any]:
    results = []
    for step in steps:
        (do, what), *more = step.items()
        if do == "say":
            results.append(say(json.dumps(what).encode()))
        elif do == "raw":
            results.append(say(what.encode("latin-1")))
        elif do == "again":
            SOCK.pop().close()
            results.append(None)
        elif do in ("fork", "orphan"):
            results.append(in_fork(what, do == "orphan"))
        elif do == "child":
            results.append(in_child(what))
        elif do == "threads":
            results.append(in_threads(dict(more)["message"], what))
        elif do == "exec":
            os.execv(sys.executable, [sys.executable, __file__, MINT, "again"])
        else:
            raise SystemExit(f"no such step: {do}")
    return results


if len(sys.argv) > 2:
    print("[]", flush=True)  # now there is a new reader; what was written before would be in the old one's buffer
for line in sys.stdin:
    print(json.dumps(perform(json.loads(line))), flush=True)
