"""What a refusal looks like: problem+json, Proxy-Status, no engine, no host, for every reason there is."""

from __future__ import annotations

import json

import pytest

from outpass.gate import refusal
from outpass.reasons import ENTRIES, Reason

REFUSING = [r for r in Reason if r is not Reason.ALLOWED]


@pytest.mark.parametrize("reason", REFUSING)
def test_every_reason_makes_a_problem_with_its_status(reason: Reason) -> None:
    made = refusal.of_reason(reason, trace="g-1-2")
    headers = dict(made.headers)
    problem = json.loads(made.body)
    assert made.status == problem["status"] == ENTRIES[reason].status
    assert (problem["code"], problem["instance"]) == (reason.value, "urn:outpass:record:g-1-2")
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"cache-control"] == b"no-store"
    assert int(headers[b"content-length"]) == len(made.body)
    assert headers[b"proxy-status"].startswith(b"outpass; error=")
    assert f'details="{reason.value}"'.encode() in headers[b"proxy-status"]
    assert all(name == name.lower() for name in headers)


def test_a_missing_pass_is_challenged_with_the_scheme_that_tools_know_first() -> None:
    made = refusal.of_reason(Reason.PASS_MISSING)
    challenges = [value for name, value in made.headers if name == b"proxy-authenticate"]
    assert made.status == 407
    assert challenges == [b'Basic realm="outpass"', b'Bearer realm="outpass"']
    assert not [n for n, _ in refusal.of_reason(Reason.PASS_MISSING, status=403).headers if n == b"proxy-authenticate"]


def test_as_http1_it_is_a_whole_response_that_ends_the_connection() -> None:
    made = refusal.of_reason(Reason.HEAD_TOO_LARGE)
    head, _, body = refusal.as_http1(made).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"connection: close" in head and body == made.body


@pytest.mark.parametrize(
    "code, message, reason",
    [
        ("CONNECT_FAILED", refusal.tagged(Reason.UPSTREAM_TIMEOUT, "x"), Reason.UPSTREAM_TIMEOUT),
        ("CONNECT_FAILED", refusal.tagged(Reason.UPSTREAM_UNREACHABLE, "refused"), Reason.UPSTREAM_UNREACHABLE),
        ("CONNECT_FAILED", "Certificate verify failed: self-signed certificate", Reason.UPSTREAM_TLS),
        ("CONNECT_FAILED", "connection closed", Reason.UPSTREAM_TLS),
        ("GENERIC_SERVER_ERROR", "server closed connection", Reason.UPSTREAM_PROTOCOL),
        ("RESPONSE_VALIDATION_FAILED", "Received x", Reason.UPSTREAM_PROTOCOL),
        ("REQUEST_VALIDATION_FAILED", "Received x", Reason.BAD_REQUEST),
        ("GENERIC_CLIENT_ERROR", "internal", Reason.BAD_REQUEST),
        ("GENERIC_SERVER_ERROR", "nonsense: upstream_tls", Reason.UPSTREAM_PROTOCOL),
    ],
)
def test_an_error_of_the_engine_becomes_a_reason(code: str, message: str, reason: Reason) -> None:
    assert refusal.fault_reason(code, message) is reason


def test_what_the_engine_says_is_not_repeated_except_for_certificates() -> None:
    sentence = ENTRIES[Reason.UPSTREAM_PROTOCOL].sentence
    assert refusal.fault_detail(Reason.UPSTREAM_PROTOCOL, "unexpected server response: b'secret'") == sentence
    said = refusal.fault_detail(Reason.UPSTREAM_TLS, "Certificate verify failed: certificate has expired")
    assert said.endswith("certificate has expired")
    hostile = refusal.fault_detail(Reason.UPSTREAM_TLS, "Certificate verify failed: \x1b[31m")
    assert hostile == ENTRIES[Reason.UPSTREAM_TLS].sentence
