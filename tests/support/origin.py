"""A real HTTPS origin on loopback, under real host names, that keeps a log of what arrived.

Lives here: the server that tests judge by ("nothing arrived"). May not live here: anything of outpass.
hypercorn speaks HTTP/1.1 and HTTP/2; the certificates come from a CA made for the test.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config


class Answer(NamedTuple):
    """What is said in place of JSON."""

    body: bytes
    type: str = "application/octet-stream"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Seen:
    """One request as the origin saw it."""

    method: str
    host: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    http_version: str
    body_bytes: int = 0

    def header(self, name: str) -> list[str]:
        """Every value of one header, by lower-case name."""
        return [v for k, v in self.headers if k == name]


@dataclass
class Origin:
    """Answers every path with JSON that names it; `/redirect?to=URL` with a 302; `/bytes?n=N` with N bytes; `/status?code=N`."""

    hosts: tuple[str, ...]
    tls: bool = True
    seen: list[Seen] = field(default_factory=list)
    ca: trustme.CA | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    """path, or host and path → JSON body, for SDKs that check the shape of what they get; or bytes, or an Answer"""

    def __enter__(self) -> Origin:
        self._dir = tempfile.TemporaryDirectory(prefix="outpass-origin-")
        where = Path(self._dir.name)
        config = Config()
        config.accesslog = None
        config.errorlog = None
        config.alpn_protocols = ["h2", "http/1.1"]
        config.bind = ["127.0.0.1:0"]
        if self.tls:
            self.ca = self.ca or trustme.CA()
            cert = self.ca.issue_cert(*self.hosts)
            self.ca.cert_pem.write_to_path(str(where / "ca.pem"))
            cert.private_key_pem.write_to_path(str(where / "key.pem"))
            for number, blob in enumerate(cert.cert_chain_pems):
                blob.write_to_path(str(where / "cert.pem"), append=bool(number))
            config.certfile, config.keyfile = str(where / "cert.pem"), str(where / "key.pem")
        self.ca_file = where / "ca.pem"
        sockets = config.create_sockets()
        listening = (sockets.secure_sockets or sockets.insecure_sockets)[0]
        self.port: int = listening.getsockname()[1]
        fd = os.dup(listening.fileno())
        for sock in (*sockets.secure_sockets, *sockets.insecure_sockets):
            sock.close()
        config.bind = [f"fd://{fd}"]
        self._ready, self._stop = threading.Event(), None
        self._thread = threading.Thread(target=self._run, args=(config,), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self._dir.cleanup()

    def _run(self, config: Config) -> None:
        async def go() -> None:
            self._loop = asyncio.get_running_loop()
            self._stopping = asyncio.Event()
            self._ready.set()
            await serve(self._app, config, shutdown_trigger=self._stopping.wait)  # type: ignore[arg-type]

        asyncio.run(go())

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        host = next((v for k, v in headers if k in ("host", ":authority")), "")
        query = scope["query_string"].decode("latin-1")
        seen = Seen(scope["method"], host, scope["raw_path"].decode("latin-1"), query, headers, scope["http_version"])
        self.seen.append(seen)
        while True:
            event = await receive()
            seen.body_bytes += len(event.get("body", b""))
            if not event.get("more_body"):
                break
        asked = dict(p.partition("=")[::2] for p in query.split("&") if p)
        status, extra = 200, [(b"content-type", b"application/json")]
        if scope["path"] == "/redirect":
            status, extra = 302, [(b"location", asked["to"].encode())]
        if scope["path"] == "/bytes":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", asked["n"].encode())]})
            left, block = int(asked["n"]), b"\0" * 65536
            while left > 0:
                await send({"type": "http.response.body", "body": block[:left], "more_body": left > len(block)})
                left -= len(block)
            return
        said = self.answers.get(host + scope["path"], self.answers.get(scope["path"]))
        if isinstance(said, bytes):
            said = Answer(
                said, "text/html" if said.startswith(b"<!") else "application/xml" if said.startswith(b"<") else "text/csv"
            )
        if isinstance(said, Answer):
            status, body = said.status, said.body
            extra = [(k.encode(), v.encode()) for k, v in (("content-type", said.type), *said.headers)]
        else:
            body = json.dumps(said if said is not None else {"path": scope["path"], "received": seen.body_bytes}).encode()
        await send({"type": "http.response.start", "status": status, "headers": [*extra, (b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    def connect_to(self, port: int | None = None) -> list[str]:
        """The `--connect-to` options that send every host of ours here."""
        on = port or (443 if self.tls else 80)
        return [o for h in self.hosts for o in ("--connect-to", f"{h}:{on}:127.0.0.1:{self.port}")]

    def wait(self, count: int, seconds: float = 10) -> list[Seen]:
        """The log, once it holds `count` requests; raises AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        while len(self.seen) < count:
            assert time.monotonic() < end, f"{len(self.seen)} of {count} requests arrived: {self.seen}"
            time.sleep(0.02)
        return self.seen
