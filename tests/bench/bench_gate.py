"""CPU per request of the gate, of its engine without policy, passes and audit, and of stock mitmdump.

Lives here: interleaved rounds (A B C A B C), medians, ratios within one run; figures are CPU of the proxy's process, which
does not depend on what else the machine does as much as wall time. May not live here: thresholds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trustme

from tests.support.gate import Gate, Jail
from tests.support.h2_client import H2
from tests.support.inprocess import stock
from tests.support.origin import Origin
from tests.support.raw_origin import RawOrigin
from tests.support.wire import Wire

ROUNDS = 7
REQUESTS = 600
POLICY = """
version: 1
packages:
  stripe: {allow: [network:http], http: ["https://api.test/v1/**", "http://plain.test/v1/**"]}
"""
TICK = os.sysconf("SC_CLK_TCK")
REPOSITORY = Path(__file__).parents[2]


def _cpu(pid: int) -> float:
    """CPU seconds of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/schedstat").read_text().split()
    total = int(fields[0]) / 1e9
    tasks = Path(f"/proc/{pid}/task")
    with contextlib.suppress(OSError):
        total = sum(int((t / "schedstat").read_text().split()[0]) for t in tasks.iterdir()) / 1e9
    return total


def _origins(send: Any, directory: str) -> None:
    """The origins, in a process of their own."""
    ca = trustme.CA()
    with RawOrigin("api.test", ca=ca) as tls, RawOrigin("plain.test", tls=False) as plain, Origin(("api.test",), ca=ca) as h2:
        ca.cert_pem.write_to_path(f"{directory}/upstream.pem")
        send.send((tls.port, plain.port, h2.port))
        while True:
            time.sleep(0.5)
            tls.seen.clear()
            plain.seen.clear()
            h2.seen.clear()


def _connect_tls(wire: Wire, alpn: str, token: str) -> Wire:
    head = f"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n{token}\r\n"
    assert wire.ask(head).status == 200
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return Wire(context.wrap_socket(wire.sock, server_hostname="api.test"), wire.gate)


def _load(gate: Gate, port: int, kind: str, ours: bool) -> Callable[[], None]:
    """A client that has sent one request already; calling it sends REQUESTS more, each with its own pass."""
    dst = "plain.test:80" if kind == "plain" else "api.test:443"
    passes = [gate.mint(dst, "stripe@11.4.0", "app", exp=int(time.time()) + 600) for _ in range(REQUESTS + 1)] if ours else []
    token = f"Proxy-Authorization: Bearer {gate.mint(dst, 'stripe', use='connect')}\r\n" if ours else ""
    wire = gate.connect(Jail("", port))
    if kind == "h2":
        client = H2(_connect_tls(wire, "h2", token))

        def one(n: int) -> None:
            extra = [("outpass-token", passes[n])] if ours else []
            assert client.answer(client.request("/v1/charges", "api.test", extra=extra)).status == 200

    else:
        inner = wire if kind == "plain" else _connect_tls(wire, "http/1.1", token)
        url = "http://plain.test/v1/charges" if kind == "plain" else "/v1/charges"
        name = "Proxy-Authorization: Bearer " if kind == "plain" else "Outpass-Token: "
        host = dst.partition(":")[0]

        def one(n: int) -> None:
            line = f"{name}{passes[n]}\r\n" if ours else ""
            inner.sock.sendall(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n{line}\r\n".encode())
            got = b""
            while not got.endswith(b"ok"):
                got += inner.sock.recv(4096)

    one(REQUESTS)
    return lambda: [one(n) for n in range(REQUESTS)] and None


@contextlib.contextmanager
def _bare(gate: Gate, directory: str, overrides: list[tuple[str, int, str, int]]) -> Iterator[tuple[int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (Path(directory) / "ca.key").write_text(gate.keys.ca_key)
    (Path(directory) / "ca.pem").write_text(gate.keys.ca_cert)
    command = [sys.executable, "-m", "tests.support.bare_engine", str(port), f"{directory}/ca.key", f"{directory}/ca.pem"]
    command += [f"{directory}/upstream.pem", *(f"{h}:{p}={a}:{q}" for h, p, a, q in overrides)]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def _script(overrides: list[tuple[str, int, str, int]]) -> str:
    table = {h: (a, q) for h, _, a, q in overrides}
    return f"""
import socket
T = {table!r}
real = socket.getaddrinfo
def find(host, p, *a, **k):
    host, p = T.get(host, (host, p))
    return real(host, p, *a, **k)
socket.getaddrinfo = find
"""


def run() -> dict[str, Any]:
    """µs of CPU per request by kind of traffic and proxy, and their ratios."""
    with tempfile.TemporaryDirectory() as directory:
        receive, send = multiprocessing.Pipe(duplex=False)
        origins = multiprocessing.get_context("fork").Process(target=_origins, args=(send, directory), daemon=True)
        origins.start()
        tls, plain, h2 = receive.recv()
        results: dict[str, Any] = {}
        try:
            for kind in ("plain", "tls", "h2"):
                overrides = [("api.test", 443, "127.0.0.1", h2 if kind == "h2" else tls), ("plain.test", 80, "127.0.0.1", plain)]
                results[kind] = _compare(kind, directory, overrides)
        finally:
            origins.kill()
    return results


def _compare(kind: str, directory: str, overrides: list[tuple[str, int, str, int]]) -> dict[str, float]:
    upstream = Path(directory) / "upstream.pem"
    taken: dict[str, list[float]] = {"gate": [], "bare": [], "stock": []}
    with (
        Gate(POLICY, connect_to=overrides, bundle=upstream) as gate,
        _bare(gate, directory, overrides) as (bare_port, bare_pid),
        stock(Path(directory), _script(overrides), trusted=upstream) as (stock_port, process),
    ):
        proxies = {
            "gate": (gate.jail.port, gate.process.pid),
            "bare": (bare_port, bare_pid),
            "stock": (stock_port, process.pid),
        }
        for round_ in range(ROUNDS + 1):
            for name, (port, pid) in proxies.items():
                load = _load(gate, port, kind, name == "gate")
                before = _cpu(pid)
                load()
                if round_:  # the first round warms caches up
                    taken[name].append((_cpu(pid) - before) / REQUESTS * 1e6)
    medians = {name: round(statistics.median(values), 1) for name, values in taken.items()}
    ratios = {
        "gate_requests_per_cpu_vs_bare": round(medians["bare"] / medians["gate"], 3),
        "gate_cpu_vs_stock": round(medians["gate"] / medians["stock"], 3),
    }
    print(f"{kind:6} µs/request: {medians}  {ratios}", flush=True)
    return {**medians, **ratios}


if __name__ == "__main__":
    run()
