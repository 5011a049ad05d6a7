"""What the shop talks to, on loopback: Stripe, S3, a language model, Sentry and the rates, one HTTPS origin under all their names.

Lives here: answers of the shape that the SDKs expect, and what arrived. May not live here: anything of outpass.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from tests.support.origin import Origin, Seen

STRIPE, MODEL, SENTRY, RATES = "api.stripe.com", "api.openai.com", "o1.ingest.de.sentry.io", "rates.example.com"
S3: Final = "shop-receipts.s3.eu-central-1.amazonaws.com"
ELSEWHERE: Final = "relay.example.net"
"""Somebody else's, who would like to have the keys."""
HOSTS: Final = (STRIPE, MODEL, SENTRY, RATES, S3, ELSEWHERE)
WORDS: Final = ("It ", "is ", "hot.")


class Upstreams(Origin):
    """`bodies` are what the S3 bucket holds, `events` what Sentry was told."""

    def __init__(self) -> None:
        super().__init__((*HOSTS, "localhost"))
        self.bodies: dict[str, bytes] = {}
        self.events: list[bytes] = []

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        host = next((v for k, v in headers if k in ("host", ":authority")), "")
        path, method = scope["path"], scope["method"]
        seen = Seen(method, host, path, scope["query_string"].decode("latin-1"), headers, scope["http_version"])
        self.seen.append(seen)
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        seen.body_bytes = len(body)
        if path == "/v1/chat/completions":
            await self._stream(send)
        else:
            await self._answer(send, *self._of(method, path, body))

    def _of(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/v1/payment_intents":
            return 200, json.dumps({"id": "pi_1", "object": "payment_intent", "status": "succeeded"}).encode()
        if path.endswith("/envelope/"):
            self.events.append(body)
            return 200, b"{}"
        if path == "/latest":
            return 200, b'{"USD": 1.1}'
        if "/receipts/" in path and method == "PUT":
            self.bodies[path] = _unchunked(body)
            return 200, b""
        return (200, self.bodies[path]) if path in self.bodies else (404, b"")

    async def _answer(self, send: Any, status: int, body: bytes) -> None:
        fields = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send: Any) -> None:
        """Server-sent events, each for itself."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for word in WORDS:
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-shop", "choices": [choice]}
            await send({"type": "http.response.body", "body": b"data: %s\n\n" % json.dumps(chunk).encode(), "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _unchunked(body: bytes) -> bytes:
    """Of S3's own framing (`aws-chunked`: size in hex, data, trailers), where the SDK used it."""
    size, found, rest = body.partition(b"\r\n")
    try:
        return rest[: int(size.partition(b";")[0], 16)] if found else body
    except ValueError:
        return body
