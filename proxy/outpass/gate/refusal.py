"""What a refusal looks like on the wire: status, headers and a problem+json body, the same for HTTP/1, HTTP/2 and CONNECT.

Lives here: pure functions from a Reason (or a problem that policy explained) to bytes. May not live here: the engine, I/O,
who is told about it (audit).

RFC 9457 for the body, RFC 9209 for Proxy-Status. The name and version of the engine appear nowhere: a refused program
learns the reason, and nothing about the host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from outpass.reasons import ENTRIES, Reason

Headers = tuple[tuple[bytes, bytes], ...]

REALM: Final = 'realm="outpass"'

_PROXY_STATUS: Final[dict[Reason, str]] = {
    Reason.RESOLVE_FAILED: "dns_error",
    Reason.UPSTREAM_UNREACHABLE: "destination_ip_unroutable",
    Reason.PROXY_UNREACHABLE: "destination_unavailable",
    Reason.PROXY_REFUSED: "destination_unavailable",
    Reason.PROXY_CREDENTIALS: "proxy_configuration_error",
    Reason.UPSTREAM_TLS: "tls_certificate_error",
    Reason.UPSTREAM_TIMEOUT: "connection_timeout",
    Reason.UPSTREAM_PROTOCOL: "http_protocol_error",
    Reason.INTERNAL: "proxy_internal_error",
    Reason.AUDIT_UNAVAILABLE: "proxy_internal_error",
    Reason.BROKER_UNAVAILABLE: "proxy_internal_error",
    Reason.DRAINING: "proxy_internal_error",
    Reason.ADDRESS_PRIVATE: "destination_ip_prohibited",
    Reason.ADDRESS_LOOPBACK: "destination_ip_prohibited",
    Reason.ADDRESS_METADATA: "destination_ip_prohibited",
    Reason.BAD_REQUEST: "http_request_error",
    Reason.BAD_HEADER: "http_request_error",
    Reason.BAD_TARGET: "http_request_error",
    Reason.BAD_HOST: "http_request_error",
    Reason.USERINFO: "http_request_error",
    Reason.HEAD_TOO_LARGE: "http_request_error",
    Reason.TARGET_TOO_LONG: "http_request_error",
    Reason.CLIENT_TIMEOUT: "http_request_error",
    Reason.FLOOD: "http_protocol_error",
    Reason.TOO_MANY_CONNECTIONS: "connection_limit_reached",
    Reason.UNSUPPORTED: "http_request_error",
}
"""RFC 9209, section 2.3, where one of its errors says more than `http_request_denied`."""


class Refusal(NamedTuple):
    """An answer that the gate gives by itself. `headers` are lower-case and hold content-length; no connection header."""

    status: int
    headers: Headers
    body: bytes


def of_reason(
    reason: Reason, detail: str = "", *, status: int | None = None, trace: str = "", retry_s: int | None = None
) -> Refusal:
    """The answer for `reason` alone, where no policy was asked. `detail` must not say anything about the host.

    `trace` is the id of the audit record, so that a person finds it again.
    """
    entry = ENTRIES[reason]
    problem = {
        "type": f"urn:outpass:reason:{reason.value}",
        "title": entry.sentence,
        "status": status or entry.status,
        "detail": detail or entry.sentence,
        "code": reason.value,
    }
    if entry.hint:
        problem["hint"] = entry.hint
    return of_problem(reason, problem, status=status, trace=trace, retry_s=retry_s)


def of_problem(
    reason: Reason, problem: Mapping[str, Any], *, status: int | None = None, trace: str = "", retry_s: int | None = None
) -> Refusal:
    """The answer for a problem that policy explained (RFC 9457 members), with the status of `reason` unless given.

    `retry_s`: whole seconds after which it may be worth asking again.
    """
    code = status or ENTRIES[reason].status
    members = {**problem, "status": code}
    if trace:
        members["instance"] = f"urn:outpass:record:{trace}"
    body = json.dumps(members, ensure_ascii=True).encode() + b"\n"
    error = _PROXY_STATUS.get(reason, "http_request_denied")
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"proxy-status", f'outpass; error={error}; details="{reason.value}"'.encode()),
    ]
    if retry_s is not None:
        headers.append((b"retry-after", b"%d" % retry_s))
    if code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        # Basic first: curl and git try the first scheme that they know, and a spawn pass travels as a user name.
        headers += [(b"proxy-authenticate", f"{s} {REALM}".encode()) for s in ("Basic", "Bearer")]
    return Refusal(code, tuple(headers), body)


def as_http1(refusal: Refusal) -> bytes:
    """The whole HTTP/1.1 response, after which the connection is closed."""
    head = [b"HTTP/1.1 %d %s" % (refusal.status, phrase(refusal.status))]
    head += [b"%s: %s" % pair for pair in (*refusal.headers, (b"connection", b"close"))]
    return b"\r\n".join(head) + b"\r\n\r\n" + refusal.body


def phrase(status: int) -> bytes:
    """The reason phrase of an HTTP/1 status line; empty for a status that has none."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


def fault_reason(code: str, message: str) -> Reason:
    """The reason behind an error of the engine: `code` is the name of its ErrorCode, `message` its text.

    Errors that the gate itself fed into the engine (a failed dial) begin with the reason and a colon; see `tagged`.
    """
    tag, colon, _ = message.partition(": ")
    if colon and tag in _TAGS:
        return Reason(tag)
    if code == "CONNECT_FAILED":
        return Reason.UPSTREAM_TLS  # a failed dial is tagged, so only the handshake is left
    if code in ("GENERIC_SERVER_ERROR", "RESPONSE_VALIDATION_FAILED", "RESPONSE_TOO_LARGE"):
        return Reason.UPSTREAM_PROTOCOL
    return Reason.BAD_REQUEST


def fault_detail(reason: Reason, message: str) -> str:
    """What a person may read of the engine's `message`: the cause for a certificate, else the reason's own sentence."""
    _, colon, cause = message.partition("ertificate verify failed: ")
    if reason is Reason.UPSTREAM_TLS and colon and cause.isascii() and cause.isprintable():
        return f"the origin's certificate cannot be verified: {cause}"
    return ENTRIES[reason].sentence


def tagged(reason: Reason, text: str) -> str:
    """`text` as an engine error from which `fault_reason` finds `reason` again."""
    return f"{reason.value}: {text}"


_TAGS: Final = frozenset(r.value for r in Reason)
