"""CPU per new intercepted connection: CONNECT, TLS with the client, TLS with the origin, one request, the end.

Lives here: the gate against stock mitmdump and against its own engine without policy, interleaved, medians of CPU of the proxy's
process; clients that resume their session beside clients that do not. May not live here: thresholds.
"""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.bench_gate import POLICY, _bare, _cpu, _origins, _script
from tests.support.gate import Gate, Jail
from tests.support.inprocess import stock

ROUNDS = 7
CONNECTIONS = 60


def _load(gate: Gate, port: int, ours: bool, resume: bool) -> Callable[[], int]:
    """Calling it makes CONNECTIONS connections with one request each; returns how many of them were resumed."""
    exp = int(time.time()) + 600
    passes = [gate.mint("api.test:443", "stripe", use=use, exp=exp) for _ in range(CONNECTIONS) for use in ("connect", "request")]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    session: list[ssl.SSLSession | None] = [None]

    def one(n: int) -> bool:
        outer = f"Proxy-Authorization: Bearer {passes[2 * n]}\r\n" if ours else ""
        inner = f"Outpass-Token: {passes[2 * n + 1]}\r\n" if ours else ""
        wire = gate.connect(Jail("", port))
        assert wire.ask(f"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n{outer}\r\n").status == 200
        with context.wrap_socket(wire.sock, server_hostname="api.test", session=session[0] if resume else None) as sock:
            sock.sendall(f"GET /v1/charges HTTP/1.1\r\nHost: api.test\r\n{inner}\r\n".encode())
            got = b""
            while not got.endswith(b"ok"):
                got += sock.recv(4096)
            session[0] = sock.session
            reused = bool(sock.session_reused)
            sock.shutdown(socket.SHUT_RDWR)
        return reused

    return lambda: sum(one(n) for n in range(CONNECTIONS))


def run() -> dict[str, Any]:
    """ms of CPU per connection by proxy, and their ratios."""
    with tempfile.TemporaryDirectory() as directory:
        receive, send = multiprocessing.Pipe(duplex=False)
        origins = multiprocessing.get_context("fork").Process(target=_origins, args=(send, directory), daemon=True)
        origins.start()
        try:
            return _compare(directory, [("api.test", 443, "127.0.0.1", receive.recv()[0])])
        finally:
            origins.kill()


def _compare(directory: str, overrides: list[tuple[str, int, str, int]]) -> dict[str, Any]:
    upstream = Path(directory) / "upstream.pem"
    taken: dict[str, list[float]] = {"gate": [], "gate_resumed": [], "bare": [], "stock": []}
    resumed = 0
    with (
        Gate(POLICY, connect_to=overrides, bundle=upstream) as gate,
        _bare(gate, directory, overrides) as (bare_port, bare_pid),
        stock(Path(directory), _script(overrides), trusted=upstream) as (stock_port, process),
    ):
        proxies = {
            "gate": (gate.jail.port, gate.process.pid),
            "gate_resumed": (gate.jail.port, gate.process.pid),
            "bare": (bare_port, bare_pid),
            "stock": (stock_port, process.pid),
        }
        for round_ in range(ROUNDS + 1):
            for name, (port, pid) in proxies.items():
                load = _load(gate, port, name.startswith("gate"), name == "gate_resumed")
                before = _cpu(pid)
                count = load()
                resumed += count if name == "gate_resumed" else 0
                if round_:  # the first round warms caches up
                    taken[name].append((_cpu(pid) - before) / CONNECTIONS * 1e3)
    medians = {name: round(statistics.median(values), 2) for name, values in taken.items()}
    ratios = {
        "gate_vs_stock": round(medians["gate"] / medians["stock"], 3),
        "gate_resumed_vs_stock": round(medians["gate_resumed"] / medians["stock"], 3),
        "gate_vs_bare": round(medians["gate"] / medians["bare"], 3),
        "resumed_share": round(resumed / CONNECTIONS / (ROUNDS + 1), 2),
    }
    print(f"new intercepted connection, ms: {medians}  {ratios}", flush=True)
    return {**medians, **ratios}


if __name__ == "__main__":
    run()
