"""Loads that a proxy is put under, and what a process costs: CPU, memory.

Lives here: raw HTTP/1.1 over plain sockets, so that the generator costs little; counters of the kernel. May not live here: peers,
what is compared.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from pathlib import Path

BODY = 1024
"""Bytes of the origin's small answer."""
WAKE = 1 << 20
"""Bytes of a large one for which the client is woken: else it is woken for every segment, at the cost of who sends it."""


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    direct: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            direct += [int(p) for p in (task / "children").read_text().split()]
    return [pid, *(p for d in direct for p in processes(d))]


def cpu(pid: int) -> float:
    """CPU seconds of a process and all below it, ended threads included."""
    total = 0.0
    for each in processes(pid):
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~each << 3) | 2)  # clock_getcpuclockid(3)
    return total


def memory(pid: int, field: str = "VmRSS") -> float:
    """MiB of resident memory of a process and all below it; `VmHWM`: the most since `forget_peak`."""
    total = 0
    for each in processes(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
            total += next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)
    return total / 1024


def forget_peak(pid: int) -> None:
    """Count the peak from now on."""
    for each in processes(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text("5")


def connect(port: int) -> socket.socket:
    """A connection without Nagle's delay."""
    sock = socket.create_connection(("127.0.0.1", port), 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def head(sock: socket.socket) -> bytes:
    """What came after the head of the next response. Raises ConnectionError for anything but 200."""
    got = b""
    while (end := got.find(b"\r\n\r\n")) < 0:
        part = sock.recv(65_536)
        if not part:
            raise ConnectionError(f"closed after {got[:60]!r}")
        got += part
    if got[9:12] != b"200":
        raise ConnectionError(f"answered {got[:200]!r}")
    return got[end + 4 :]


def answered(sock: socket.socket, request: bytes) -> None:
    """One small request and its whole answer."""
    sock.sendall(request)
    left = BODY - len(head(sock))
    while left > 0:
        left -= len(sock.recv(65_536))


def tunnel(port: int, origin: int, line: str) -> socket.socket:
    """A CONNECT tunnel to the origin. Raises ConnectionError when it is refused."""
    sock = connect(port)
    sock.sendall(f"CONNECT 127.0.0.1:{origin} HTTP/1.1\r\nHost: 127.0.0.1:{origin}\r\n{line}\r\n".encode())
    head(sock)
    return sock


def download(sock: socket.socket, request: bytes, count: int, seconds: float) -> float:
    """Bytes a second of an answer of `count` bytes, thrown away in the kernel. Raises TimeoutError after `seconds`."""
    started = time.perf_counter()
    sock.sendall(request)
    left = count - len(head(sock))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(left, WAKE))
    while left > 0:
        if left < WAKE:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, left)
        if time.perf_counter() - started > seconds:
            raise TimeoutError
        part = sock.recv_into(_NOWHERE, len(_NOWHERE), socket.MSG_TRUNC)
        if not part:
            raise ConnectionError("the body ended early")
        left -= part
    return count / (time.perf_counter() - started)


def closed_loop(port: int, requests: list[bytes], concurrency: int, body: int = BODY) -> tuple[float, list[float]]:
    """(seconds, seconds of each) for small requests on `concurrency` kept connections, each with one under way.

    `body`: bytes of each answer's.
    """
    socks = {s.fileno(): s for s in (connect(port) for _ in range(concurrency))}
    poll = select.epoll()
    got = dict.fromkeys(socks, b"")
    sent: dict[int, float] = {}
    taken: list[float] = []
    waiting = iter(requests)
    started = time.perf_counter()
    for fd, sock in socks.items():
        poll.register(fd, select.EPOLLIN)
        if (request := next(waiting, None)) is not None:
            sent[fd] = time.perf_counter()
            sock.sendall(request)
    while sent:
        for fd, _ in poll.poll(60) or _stalled():
            part = socks[fd].recv(65_536)
            if not part:
                raise ConnectionError("closed between requests")
            got[fd] += part
            end = got[fd].find(b"\r\n\r\n")
            if end < 0 or len(got[fd]) < end + 4 + body:
                continue
            if got[fd][9:12] != b"200":
                raise ConnectionError(f"answered {got[fd][:200]!r}")
            got[fd] = b""
            now = time.perf_counter()
            taken.append(now - sent.pop(fd))
            if (request := next(waiting, None)) is not None:
                sent[fd] = now
                socks[fd].sendall(request)
    elapsed = time.perf_counter() - started
    poll.close()
    for sock in socks.values():
        sock.close()
    return elapsed, taken


def _stalled() -> list[tuple[int, int]]:
    raise TimeoutError("nothing came for a minute")


_NOWHERE = bytearray(1 << 22)
