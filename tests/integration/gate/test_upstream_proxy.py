"""Behind a company's proxy: the gate dials through it, every check stands but the one of addresses, and its login goes nowhere.

The origins are known to the proxy alone, so whatever reaches them went through it. Judged at the proxy, the origin, the records.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from outpass import upstream
from outpass.gate import dialling
from outpass.gate.pins import Pin, Via
from outpass.reasons import Reason
from tests.integration.gate.test_opaque import ask
from tests.support.gate import Gate
from tests.support.proxies import PASSWORD, USER, Proxy
from tests.support.raw_origin import RawOrigin
from tests.support.streams import Streams
from tests.support.waiting import until
from tests.support.wire import Answer

POLICY = """
version: 1
packages:
  stripe:
    allow: [network:http, network:socket]
    http: ["https://api.test/v1/**", "http://plain.test/v1/**", "http://near.test/**", "http://10.9.8.7/**",
           {url: "https://pinned.test", intercept: false}]
    socket: ["first.test:25"]
  anywhere: {allow: [network:http]}
"""
Names = dict[tuple[str, int], int]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "corporate.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def origins(authority: trustme.CA) -> Iterator[Names]:
    """Names that no resolver knows, and where the proxy finds them."""
    with (
        RawOrigin("api.test", cert_hosts=("api.test", "pinned.test"), ca=authority) as secure,
        RawOrigin("plain.test", tls=False) as plain,
        Streams() as streams,
    ):
        raw = {("first.test", 25): streams.ports["first"]}
        web = {("api.test", 443): secure.port, ("pinned.test", 443): secure.port, ("plain.test", 80): plain.port}
        yield {**web, ("10.9.8.7", 80): plain.port, **raw}


@dataclass
class Behind:
    """A gate whose way out is `proxy`."""

    gate: Gate
    proxy: Proxy

    def plain(self, url: str, chain: str = "stripe", dst: str = "") -> Answer:
        """A plain request on a connection of its own."""
        with self.gate.connect() as wire:
            return wire.plain(url, url.split("/")[2], chain, dst=dst)

    def socket(self) -> Answer:
        """CONNECT for a socket rule."""
        with self.gate.connect() as wire:
            return ask(self.gate, wire, "first.test:25", "stripe", cap="network:socket", tunnel="opaque")


@contextlib.contextmanager
def behind(kind: str, names: Names, bundle: Path, authority: trustme.CA, *exempt: str) -> Iterator[Behind]:
    tls = None
    if kind == "https":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
    with (
        Proxy(kind, names, login=True, tls=tls) as proxy,
        Gate(POLICY, bundle=bundle, start={"upstream": proxy.message(*exempt)}) as gate,
    ):
        yield Behind(gate, proxy)
        assert not gate.errors, gate.errors


@pytest.fixture(scope="module", params=["http", "https", "socks5"])
def shared(request: pytest.FixtureRequest, origins: Names, bundle: Path, authority: trustme.CA) -> Iterator[Behind]:
    with behind(request.param, origins, bundle, authority) as made:
        yield made


@pytest.fixture
def corp(shared: Behind) -> Iterator[Behind]:
    """The same gate for every test of one kind of proxy, with nothing asked of the proxy yet."""
    names = dict(shared.proxy.names)
    shared.proxy.asked.clear()
    shared.proxy.logins.clear()
    shared.gate.records.clear()
    yield shared
    shared.proxy.names, shared.proxy.refuses, shared.proxy.password = names, False, PASSWORD


def test_every_way_out_goes_through_the_proxy_with_its_login(corp: Behind, bundle: Path) -> None:
    gate, proxy = corp.gate, corp.proxy
    with gate.tunnel("api.test:443", "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
        assert wire.get("/v2/a", "api.test", "stripe").status == 403, "policy reads paths as ever"
    assert corp.plain("http://plain.test/v1/a").status == 200
    with gate.connect() as wire:  # carried unseen, and verified by the client itself
        assert ask(gate, wire, "pinned.test:443", "stripe", tunnel="opaque").status == 200
        context = ssl.create_default_context(cafile=str(bundle))
        with context.wrap_socket(wire.sock, server_hostname="pinned.test") as inside:
            inside.sendall(b"GET /v1/b HTTP/1.1\r\nHost: pinned.test\r\n\r\n")
            assert inside.recv(100).startswith(b"HTTP/1.1 200")
    with gate.connect() as wire:  # the origin speaks first, perhaps in one segment with the proxy's answer
        assert ask(gate, wire, "first.test:25", "stripe", cap="network:socket", tunnel="opaque").status == 200
        assert wire.sock.recv(100)
    assert proxy.asked == [("api.test", 443), ("plain.test", 80), ("pinned.test", 443), ("first.test", 25)]
    assert set(proxy.logins) == {f"{USER}:{PASSWORD}".encode()}
    allowed = gate.wait_records(4, verdict="allow", kind="decision")
    assert all(r["addresses"] is None for r in allowed), "nobody here has resolved the names"
    assert {r["dialled"] for r in allowed} == {f"{proxy.scheme}://127.0.0.1:{proxy.port}"}
    assert PASSWORD not in str(gate.records) and USER not in str(gate.records)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"password": "another"}, Reason.PROXY_CREDENTIALS),
        ({"refuses": True}, Reason.PROXY_REFUSED),
        ({"names": {}}, Reason.UPSTREAM_UNREACHABLE),
    ],
    ids=["wrong password", "refused", "no such host"],
)
def test_a_proxy_that_does_not_open_the_way_is_a_fault_with_a_reason(
    corp: Behind, wrong: dict[str, object], reason: Reason
) -> None:
    for name, value in wrong.items():
        setattr(corp.proxy, name, value)
    for answer in (corp.plain("http://plain.test/v1/a"), corp.socket()):
        assert (answer.status, f'"{reason.value}"'.encode() in answer.body) == (502, True), answer
        assert b"127.0.0.1" not in answer.body, "where the proxy is is a fact about the host"
    assert [r["reason"] for r in corp.gate.wait_records(2, kind="fault")] == [reason] * 2
    assert USER not in str(corp.gate.records)


def test_literal_addresses_keep_their_floors(corp: Behind) -> None:
    for host, reason in (
        ("169.254.169.254", Reason.ADDRESS_METADATA),
        ("127.0.0.1", Reason.ADDRESS_LOOPBACK),
        ("10.0.0.1", Reason.ADDRESS_PRIVATE),
        ("localhost", Reason.ADDRESS_LOOPBACK),  # never the proxy's own loopback
    ):
        answer = corp.plain(f"http://{host}/x", "anywhere")
        assert (answer.status, f'"{reason.value}"'.encode() in answer.body) == (403, True), answer
    assert corp.proxy.asked == []
    assert corp.plain("http://10.9.8.7/v1/a").status == 200, "a rule that names it opens it, through the proxy"
    assert corp.proxy.asked == [("10.9.8.7", 80)]


def test_the_login_never_reaches_an_origin(corp: Behind) -> None:
    with RawOrigin("plain.test", tls=False) as plain:
        corp.proxy.names = {("plain.test", 80): plain.port}
        assert corp.plain("http://plain.test/v1/a").status == 200
    assert b"proxy-auth" not in plain.seen[0].head.lower() and len(plain.seen) == 1


def test_a_tls_proxy_with_a_certificate_of_nobody_known_gets_no_login(origins: Names, bundle: Path) -> None:
    with behind("https", origins, bundle, trustme.CA()) as made:
        answer = made.plain("http://plain.test/v1/a")
        assert (answer.status, b'"proxy_unreachable"' in answer.body) == (502, True)
        assert made.proxy.logins == []


def test_no_proxy_is_dialled_directly_with_every_check_of_addresses(origins: Names, bundle: Path, authority: trustme.CA) -> None:
    with behind("http", origins, bundle, authority, ".invalid") as made:
        answer = made.plain("http://no-such-name.invalid/x", "anywhere")
        assert (answer.status, b'"resolve_failed"' in answer.body) == (502, True), "the machine's own resolver was asked"
        assert made.proxy.asked == []


def _dialled(proxy: Proxy) -> None:
    told = upstream.of_message(proxy.message())
    assert told is not None
    asyncio.run(dialling.dial(Pin((), 443, False, 0.0, via=Via(told, None)), "api.test"))


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_that_says_nothing_is_a_timeout(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "CONNECT_S", 0.05)
    with Proxy(kind, {}, silent=True) as proxy, pytest.raises(TimeoutError) as caught:
        _dialled(proxy)
    assert dialling.reason_of(caught.value) is Reason.UPSTREAM_TIMEOUT


def test_a_proxy_that_is_not_there_is_a_fault_and_nothing_else_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    real, dialled = dialling.race, []

    async def race(addresses: Sequence[str], port: int) -> tuple[socket.socket, str]:
        dialled.append((*addresses, port))
        return await real(addresses, port)

    monkeypatch.setattr(dialling, "race", race)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    with pytest.raises(OSError) as caught:
        _dialled(Proxy("http", {}, port=closed))
    assert dialling.reason_of(caught.value) is Reason.PROXY_UNREACHABLE
    assert dialled == [("127.0.0.1", closed)]


SQUID = """
http_port 127.0.0.1:{port}
pid_filename none
cache deny all
cache_log {where}/cache.log
access_log stdio:{where}/access.log
hosts_file {where}/hosts
shutdown_lifetime 0 seconds
visible_hostname squid.test
coredump_dir {where}
auth_param basic program {where}/login
auth_param basic children 1 startup=1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""


@pytest.fixture
def squid(tmp_path: Path) -> Iterator[int]:
    """A real squid with a login; it alone knows api.test."""
    program = shutil.which("squid", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("squid is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "hosts").write_text("127.0.0.1 api.test plain.test\n")
    login = tmp_path / "login"
    login.write_text('#!/bin/sh\nwhile read -r line; do [ "$line" = "ada secret" ] && echo OK || echo ERR; done\n')
    login.chmod(0o755)
    config = tmp_path / "squid.conf"
    config.write_text(SQUID.format(port=port, where=tmp_path))
    for path in (tmp_path, *tmp_path.parents):  # squid's workers run as its own user where root starts it
        if path != Path("/") and path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o011)
    tmp_path.chmod(0o777)
    running = subprocess.Popen([program, "-N", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("squid and its login helper", lambda: running.poll() is not None or _admits(port), 30)
        if running.poll() is not None:
            pytest.skip(f"squid does not start here: {(tmp_path / 'cache.log').read_text()[-300:]}")
        yield port
    finally:
        running.kill()
        running.wait()


def _admits(port: int) -> bool:
    """Whether the login is known already: squid listens before its helper answers, and says 407 meanwhile."""
    pair = base64.b64encode(b"ada:secret").decode()
    asked = f"CONNECT api.test:1 HTTP/1.1\r\nHost: api.test:1\r\nProxy-Authorization: Basic {pair}\r\n\r\n"
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 20) as probe:
        probe.sendall(asked.encode())
        return b" 407 " not in (probe.recv(100) or b" 407 ")
    return False


def test_a_real_squid_with_a_login(squid: int, authority: trustme.CA, bundle: Path, tmp_path: Path) -> None:
    with RawOrigin("api.test", ca=authority) as secure, RawOrigin("plain.test", tls=False) as plain:
        urls = f'"https://api.test:{secure.port}/**", "http://plain.test:{plain.port}/**"'
        rules = f"version: 1\npackages: {{stripe: {{allow: [network:http], http: [{urls}]}}}}\n"
        for password, status in (("secret", 200), ("wrong", 502)):
            told = Proxy("http", {}, port=squid).message() | {"user": "ada", "password": password}
            with Gate(rules, bundle=bundle, start={"upstream": told}) as gate:
                where = f"api.test:{secure.port}"
                with gate.tunnel(where, "stripe") as wire:
                    assert wire.get("/a", where, "stripe", dst=where).status == status
                with gate.connect() as wire:
                    where = f"plain.test:{plain.port}"
                    assert wire.plain(f"http://{where}/a", where, "stripe", dst=where).status == status
                if password == "wrong":
                    assert {r["reason"] for r in gate.wait_records(2, kind="fault")} == {Reason.PROXY_CREDENTIALS}
    assert "CONNECT api.test" in (tmp_path / "access.log").read_text()
