"""The operator's API: HTTP on RUNTIME/admin.sock (0600).

Lives here: routes, their JSON, problem+json errors. May not live here: what they do (the daemon's rooms). Never a key, and
nothing for the inside of a jail.

Every call carries `Outpass-Client: 1`. Neither a browser nor a confused proxy (SSRF, CWE-918) sends that header, so that
nobody who can merely make somebody else's program send a request can use this socket (as in SPIFFE's Workload API).
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from outpass.errors import OutpassError
from outpass.model import Capability, EgressRequest
from outpass.policy import names
from outpass.policy.decide import decide
from outpass.policy.explain import explain

if TYPE_CHECKING:
    from outpass.broker.daemon import Daemon
    from outpass.broker.jails import Jail

HEADER: Final = "Outpass-Client"
MAX_BODY: Final = 65_536
"""Bytes of a request's body."""
MAX_BEHIND: Final = 1_000
"""Events that a slow reader may be behind; then it is told how many it missed."""
_BEAT_S: Final = 15.0
"""Seconds of silence after which an event stream says that it lives."""


class Problem(Exception):
    """An answer that is an error: RFC 9457 members."""

    def __init__(self, status: int, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"type": f"urn:outpass:admin:{code}", "status": status, "code": code, "detail": detail, **more}

    def response(self) -> web.Response:
        """As HTTP."""
        return web.json_response(self.body, status=self.status, content_type="application/problem+json")


@web.middleware
async def _guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    try:
        if request.headers.getall(HEADER, []) != ["1"]:
            raise Problem(403, "header_missing", f"every call needs the header {HEADER}: 1")
        return await handler(request)
    except Problem as e:
        return e.response()
    except web.HTTPException as e:
        return Problem(e.status, "http", (e.reason or "").lower()).response()
    except OutpassError as e:
        return Problem(400, "refused", e.message, hint=e.hint).response()
    except RecursionError:
        return Problem(400, "not_json", "the body is nested too deeply").response()


async def start(daemon: Daemon, listener: socket.socket) -> web.AppRunner:
    """Serve on `listener` until the runner is cleaned up."""
    admin = Admin(daemon)
    app = web.Application(middlewares=[_guard], client_max_size=MAX_BODY)
    app.add_routes(
        [
            web.get("/livez", admin.livez),
            web.get("/readyz", admin.readyz),
            web.get("/v1/jails", admin.jails),
            web.get("/v1/sessions", admin.sessions),
            web.post("/v1/sessions/{sid}/revoke", admin.revoke),
            web.post("/v1/explain", admin.explain),
            web.get("/v1/events", admin.events),
            web.get("/v1/keys", admin.keys),
            web.post("/v1/reload", admin.reload),
            web.get("/metrics", admin.metrics),
        ]
    )
    app.on_shutdown.append(admin.close)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


class Admin:
    """The handlers, over one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        metrics = daemon.ears.metrics
        metrics.gauge("outpass_jails", "Open jails.").set_function(lambda: len(daemon.jails.by_id))
        metrics.gauge("outpass_sessions", "Live sessions.").set_function(lambda: len(daemon.sessions.snapshot()))
        metrics.gauge("outpass_ready", "1 when ready, as /readyz says.").set_function(lambda: float(not self._missing()))

    async def close(self, _app: web.Application) -> None:
        """End the event streams, which would go on for ever."""
        for stream in list(self._streams):
            stream.put_nowait(None)

    async def livez(self, _request: web.Request) -> web.Response:
        """The daemon's loop turns."""
        return web.json_response({"live": True})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Requests can be decided and recorded."""
        missing = self._missing()
        return web.json_response({"ready": not missing, "missing": missing}, status=503 if missing else 200)

    def _missing(self) -> list[str]:
        daemon = self._daemon
        checks = {
            "gate": daemon.gates.ready,
            "audit": daemon.store.state == "ok",
            "ca": time.time() < daemon.keys.ca_expires.timestamp(),
        }
        return [name for name, good in checks.items() if not good]

    async def jails(self, _request: web.Request) -> web.Response:
        """The open jails and the policy in force in each."""
        return web.json_response({"jails": [_jail(jail) for jail in list(self._daemon.jails.by_id.values())]})

    async def sessions(self, _request: web.Request) -> web.Response:
        """Live sessions."""
        return web.json_response({"sessions": [session.as_dict() for session in self._daemon.sessions.snapshot()]})

    async def revoke(self, request: web.Request) -> web.Response:
        """End a session: its passes are void, and its process gets no other."""
        if not await self._daemon.revoke(request.match_info["sid"]):
            raise Problem(404, "no_session", "there is no live session of this name")
        return web.json_response({"revoked": request.match_info["sid"]})

    async def explain(self, request: web.Request) -> web.Response:
        """What the policy in force says to a request: `{"jail", "chain", "url", "method", "capability", "versions"}`."""
        try:
            body = await request.json()
        except ValueError:
            raise Problem(400, "not_json", "the body is not JSON") from None
        if not isinstance(body, dict):
            raise Problem(400, "not_json", "the body is not a JSON object")
        jail = self._jail(body.get("jail"))
        decision = decide(jail.force.compiled, _asked(body, jail), now=time.time())
        return web.json_response({"jail": jail.id, **explain(decision).as_json()})

    def _jail(self, name: Any) -> Jail:
        by_id = self._daemon.jails.by_id
        if name is None and len(by_id) == 1:
            return next(iter(by_id.values()))
        jail = by_id.get(name) if isinstance(name, str) else None
        if jail is None:
            raise Problem(404, "no_jail", "there is no such jail; see /v1/jails")
        return jail

    async def keys(self, _request: web.Request) -> web.Response:
        """Which keys passes are signed with, by name; the keys themselves are nobody's business."""
        keys = self._daemon.keys
        found = [{"kid": keys.kid, "alg": "HS256", "use": "sig"}]
        return web.json_response({"iss": keys.iss, "keys": found, "ca_expires": keys.ca_expires.isoformat()})

    async def reload(self, _request: web.Request) -> web.Response:
        """Read every policy again; 409 when one cannot be used (the last good one stays)."""
        told = await self._daemon.reload()
        return web.json_response(told, status=200 if told["ok"] else 409)

    async def metrics(self, _request: web.Request) -> web.Response:
        """For Prometheus."""
        content = generate_latest(self._daemon.ears.metrics.registry)
        return web.Response(body=content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Audit records as they come, as server-sent events."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        missed = 0

        def deliver(event: bytes) -> None:
            nonlocal missed
            if queue.qsize() >= MAX_BEHIND:
                missed += 1
                return
            if missed:
                queue.put_nowait(_event("missed", {"count": missed}))
                missed = 0
            queue.put_nowait(event)

        def listener(record: dict[str, Any]) -> None:
            try:
                loop.call_soon_threadsafe(deliver, _event("record", record))
            except RuntimeError:  # the loop has ended
                pass

        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        stop = self._daemon.ears.listen(listener)
        self._streams.add(queue)
        try:
            await response.prepare(request)
            await response.write(b": outpass events, version 1\n\n")
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), _BEAT_S)
                except TimeoutError:
                    event = b": alive\n\n"
                if event is None:
                    break
                await response.write(event)
        except ConnectionError:
            pass  # the reader has gone
        finally:
            stop()
            self._streams.discard(queue)
        return response


def _event(name: str, body: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n".encode()


def _jail(jail: Jail) -> dict[str, Any]:
    return {
        "jail": jail.id,
        "kind": jail.kind,
        "tier": jail.tier,
        "label": jail.label,
        "cwd": jail.cwd,
        "roots": list(jail.roots),
        "uid": jail.uid,
        "proxy": jail.proxy,
        "opened": jail.opened,
        "policy": {
            "file": str(jail.source.file) if jail.source.file else None,
            "digest": jail.force.digest,
            "mode": jail.force.mode,
            "warnings": list(jail.force.warnings),
        },
        "summary": jail.summary.as_dict(),
    }


def _asked(body: dict[str, Any], jail: Jail) -> EgressRequest:
    """The request that an explain body describes. Raises Problem."""
    chain, url, method = body.get("chain"), body.get("url"), body.get("method", "GET")
    versions = body.get("versions", {})
    if not isinstance(chain, list) or not chain or not all(isinstance(name, str) for name in chain):
        raise Problem(400, "bad_chain", "chain is a list of package names, nearest first")
    if not isinstance(url, str) or not (method is None or isinstance(method, str)) or not isinstance(versions, dict):
        raise Problem(400, "bad_request", "url and method are strings, versions is an object")
    try:
        principals = tuple(names.principal(name) for name in chain)
        target = names.parse_url(url)
        capability = Capability(body.get("capability", Capability.HTTP.value))
    except ValueError as e:
        raise Problem(400, "bad_request", str(e)) from None
    if capability not in (Capability.HTTP, Capability.FETCH):
        raise Problem(400, "bad_request", "explain takes network:http and network:fetch here; see outpass explain for others")
    known = tuple(versions.get(name) if isinstance(versions.get(name), str) else None for name in chain)
    return EgressRequest(
        capability.value, principals, known, target.scheme, target.host, target.port, method, target.path, tier=jail.tier
    )
