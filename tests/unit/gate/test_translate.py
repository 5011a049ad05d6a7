"""From the engine's request to policy's terms, and what is sent afterwards."""

from __future__ import annotations

import pytest
from mitmproxy import http

from outpass.gate import translate
from outpass.gate.translate import Refused, Target
from outpass.reasons import Reason


def _request(path: bytes = b"/a?b=1", *, h2: bool = False, authority: bytes = b"", host: str = "", **fields: str) -> http.Request:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    version = b"HTTP/2.0" if h2 else b"HTTP/1.1"
    return http.Request(host, 0, b"GET", b"https", authority, path, version, http.Headers(headers), None, None, 0.0, 0.0)


def _inner(request: http.Request, host: str = "api.test", port: int = 443) -> Target:
    return translate.inner_target(request, translate.index(request), host, port)


@pytest.mark.parametrize("host", ["api.test", "API.TEST", "api.test.", "api.test:443"])
@pytest.mark.parametrize("h2", [False, True])
def test_a_request_in_a_tunnel_names_its_host_in_any_spelling(host: str, h2: bool) -> None:
    request = _request(h2=True, authority=host.encode()) if h2 else _request(Host=host)
    assert _inner(request) == ("https", "api.test", 443, "GET", "/a", "b=1")


@pytest.mark.parametrize(
    "host, reason",
    [
        ("evil.test", Reason.AUTHORITY_MISMATCH),
        ("api.test:80", Reason.AUTHORITY_MISMATCH),
        ("sub.api.test", Reason.AUTHORITY_MISMATCH),
        ("u@api.test", Reason.BAD_HOST),
        ("", Reason.BAD_HOST),
        ("api.test:x", Reason.BAD_HOST),
        ("api..test", Reason.BAD_HOST),
    ],
)
def test_any_other_host_is_refused(host: str, reason: Reason) -> None:
    with pytest.raises(Refused) as caught:
        _inner(_request(Host=host))
    assert caught.value.reason is reason


def test_an_address_is_the_address_however_it_is_spelt() -> None:
    assert _inner(_request(Host="0x7f.1"), "127.0.0.1").host == "127.0.0.1"
    assert _inner(_request(Host="[0:0::1]"), "::1").host == "::1"


@pytest.mark.parametrize(
    "path, expected", [(b"/", ("/", None)), (b"/a?", ("/a", "")), (b"/a?b?c", ("/a", "b?c")), (b"*", ("/", None))]
)
def test_the_query_is_told_from_the_path(path: bytes, expected: tuple[str, str | None]) -> None:
    target = _inner(_request(path, Host="api.test"))
    assert (target.path, target.query) == expected


def test_a_path_that_is_not_text_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        _inner(_request(b"/\xff", Host="api.test"))
    assert caught.value.reason is Reason.BAD_TARGET


@pytest.mark.parametrize(
    "authority, expected",
    [
        (b"API.test:443", ("api.test", 443)),
        (b"[::1]:443", ("::1", 443)),
        (b"0x7f.1:80", ("127.0.0.1", 80)),
        (b"api.test", None),
        (b"u@api.test:443", None),
        (b"api.test:0", None),
        (b"api.test:65536", None),
    ],
)
def test_connect_names_a_host_and_a_port(authority: bytes, expected: tuple[str, int] | None) -> None:
    request = _request(authority=authority)
    if expected is None:
        with pytest.raises(Refused) as caught:
            translate.connect_target(request)
        assert caught.value.reason is Reason.BAD_HOST
    else:
        assert translate.connect_target(request) == expected


def _sealed(request: http.Request, target: Target) -> list[tuple[bytes, bytes]]:
    translate.seal(request, target, translate.index(request))
    return list(request.data.headers.fields)


def test_what_is_sent_has_one_spelling_of_the_host_no_pass_and_nothing_hop_by_hop() -> None:
    fields = {
        "Host": "API.test.",
        "Outpass_Token": "x",
        "Proxy_Authorization": "y",
        "Proxy_Connection": "close",
        "Keep_Alive": "5",
        "Connection": "X-Hop, close",
        "X_Hop": "1",
        "X_Kept": "2",
    }
    request = _request(authority=b"evil.test", **fields)
    sent = _sealed(request, Target("https", "api.test", 443, "GET", "/", None))
    assert sent == [(b"Host", b"api.test"), (b"X-Kept", b"2"), (b"Connection", b"close")]
    assert (request.data.host, request.data.port, request.data.authority) == ("api.test", 443, b"")


def test_http2_keeps_its_authority_in_the_same_spelling() -> None:
    request = _request(h2=True, authority=b"API.test:8443", host="x", cookie="a")
    assert _sealed(request, Target("https", "api.test", 8443, "GET", "/", None)) == [(b"cookie", b"a")]
    assert request.data.authority == b"api.test:8443"


def test_a_missing_host_is_added_for_http1() -> None:
    assert _sealed(_request(), Target("http", "::1", 8080, "GET", "/", None)) == [(b"Host", b"[::1]:8080")]


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding", "Authorization", "Cookie"])
def test_connection_may_not_name_what_others_rely_on(name: str) -> None:
    with pytest.raises(Refused) as caught:
        _sealed(_request(Host="api.test", Connection=f"close, {name}"), Target("https", "api.test", 443, "GET", "/", None))
    assert caught.value.reason is Reason.BAD_HEADER


def test_an_answer_loses_what_speaks_to_the_gate() -> None:
    names = ["alt-svc", "Proxy-Authenticate", "Upgrade", "outpass-token", "x-kept"]
    response = http.Response.make(200, b"", [(n.encode(), b"1") for n in names])
    translate.strip_response(response)
    assert [n for n, _ in response.headers.fields] == [b"x-kept", b"content-length"]
