"""A FastAPI service (tests/service) without outpass, behind `outpass run --no-jail`, and in the jail: requests a second, CPU a request.

Lives here: three running services, asked in turn, A B C A B C; medians, and ratios to the first. May not live here: the service.
Endpoints: work of its own only; one query to PostgreSQL; one HTTPS request of its own on a kept connection. One uvicorn worker
with uvloop and httptools. CPU is that of the service and, behind outpass, of everything that outpass runs; PostgreSQL, the origin
and the generator are not counted, but share the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trustme

from tests.bench import load
from tests.service.upstreams import HOSTS
from tests.service.world import SERVER, Served, Shop, database, shop, url

ROUNDS, WARM = 7, 100
COUNTS = {"/quote": 1000, "/orders/1": 400, "/rates": 300}
CONCURRENCY = 8
ORIGIN = """
import asyncio, os, ssl, sys
ANSWER = b'HTTP/1.1 200 OK\\r\\ncontent-length: 12\\r\\ncontent-type: application/json\\r\\n\\r\\n{"USD": 1.1}'
class Origin(asyncio.Protocol):
    got = b""
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data):
        self.got += data
        while (end := self.got.find(b"\\r\\n\\r\\n")) >= 0:
            self.got = self.got[end + 4:]
            self.transport.write(ANSWER)
async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, os.read, 0, 1)
    os._exit(0)
asyncio.run(main())
"""
"""An HTTPS origin that costs little, in a process of its own; ends with its standard input."""


class Cheap:
    """Every host of the shop's policy, and localhost, at ORIGIN."""

    def __enter__(self) -> Cheap:
        self._made = tempfile.TemporaryDirectory(prefix="outpass-bench-")
        where = Path(self._made.name)
        ca = trustme.CA()
        self.ca_file = where / "ca.pem"
        ca.cert_pem.write_to_path(str(self.ca_file))
        ca.issue_cert(*HOSTS, "localhost").private_key_and_cert_chain_pem.write_to_path(str(where / "cert.pem"))
        command = [sys.executable, "-c", ORIGIN, str(where / "cert.pem")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._made.cleanup()

    def connect_to(self) -> list[str]:
        """For `outpass run`."""
        return [o for h in HOSTS for o in ("--connect-to", f"{h}:443:127.0.0.1:{self.port}")]


@contextlib.contextmanager
def services(made: Shop[Cheap]) -> Iterator[dict[str, Served]]:
    """The three, each with an order in a schema of its own. The first needs no gate to find the origin and PostgreSQL."""
    port = made.upstreams.port
    told = {"SENTRY_DSN": "", "S3_BUCKET": "unused"}
    direct = {"RATES_URL": f"https://localhost:{port}/latest", "SSL_CERT_FILE": str(made.ca), "SSL_CERT_DIR": ""}
    loopback = {"DATABASE_URL": url(SERVER[0], made.schema)}
    with (
        made.plain(**told, **direct, **loopback) as plain,
        made.served("--no-jail", "-q", **told, **loopback) as no_jail,
        made.served(**told) as jail,
    ):
        yield {"plain": plain, "no_jail": no_jail, "jail": jail}


def run() -> dict[str, Any]:
    """By endpoint and way: µs of CPU a request and requests a second, with ratios to `plain`."""
    if not database():
        raise RuntimeError(f"no PostgreSQL on {SERVER[0]}:{SERVER[1]}")
    with shop(os.getuid(), Cheap()) as made, services(made) as running:
        order(made)
        figures = {path: compared(path, count, running) for path, count in COUNTS.items()}
        assert {r["verdict"] for r in made.records()} == {"allow"}
    return figures


def order(made: Shop[Cheap]) -> None:
    """The order that is asked for, as Stripe and S3 are not here to place one."""
    row = f"insert into {made.schema}.shop_orders (item, cents, payment) values ('tea', 350, 'pi_1')"
    script = "import psycopg, sys; psycopg.connect(sys.argv[1], autocommit=True).execute(sys.argv[2])"
    where = f"host={SERVER[0]} port={SERVER[1]} user=postgres dbname=test"
    subprocess.run([made.bin("python"), "-c", script, where, row], check=True)


def compared(path: str, count: int, running: dict[str, Served]) -> dict[str, Any]:
    """Medians of ROUNDS, interleaved; the first asks warm connections and caches up."""
    request = f"GET {path} HTTP/1.1\r\nHost: shop.example.com\r\nAccept: */*\r\n\r\n".encode()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for name, served in running.items():
        status, body = served.ask(path)
        assert status == 200, (name, served.said())
        load.closed_loop(served.port, [request] * WARM, CONCURRENCY, len(body))
    for _ in range(ROUNDS):
        for name, served in running.items():
            before = load.cpu(served.process.pid)
            seconds, _ = load.closed_loop(served.port, [request] * count, CONCURRENCY, len(body))
            taken[name].append((1e6 * (load.cpu(served.process.pid) - before) / count, count / seconds))
    medians = {
        name: {"cpu_us": round(statistics.median(c for c, _ in rows)), "rps": round(statistics.median(r for _, r in rows), 1)}
        for name, rows in taken.items()
    }
    plain = medians["plain"]
    ratios = {n: {k: round(f[k] / plain[k], 3) for k in f} for n, f in medians.items() if n != "plain"}
    print(f"{path:10} {json.dumps(medians)}\n{'':10} to plain: {json.dumps(ratios)}", flush=True)
    return {**medians, "to_plain": ratios}


if __name__ == "__main__":
    run()
