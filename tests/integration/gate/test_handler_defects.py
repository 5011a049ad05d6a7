"""The defects of the engine's connection handler and addons, shown on the engine as it is shipped, and gone in the gate."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from outpass.gate.engine import h1
from outpass.model import Decision, EgressRequest
from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.inprocess import InProcess, in_process, stock
from tests.support.raw_origin import RawOrigin
from tests.support.waiting import until
from tests.support.wire import Wire

NO_SCRIPT = ""


def _get(port: int, url: str, seconds: float = 20) -> http.client.HTTPResponse:
    sock = socket.create_connection(("127.0.0.1", port), seconds)
    host = url.split("/")[2]
    sock.sendall(f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    response = http.client.HTTPResponse(sock, method="GET")
    response.begin()
    return response


def _broken(_: EgressRequest) -> Decision:
    raise ZeroDivisionError("a bug in a hook")


def test_d1_a_hook_that_raises_refuses(plain: RawOrigin, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{plain.port}/x"
    with stock(tmp_path, "def requestheaders(flow): raise ZeroDivisionError") as (port, _):
        assert _get(port, url).status == 200, "the stock engine fails open"
    assert len(plain.seen) == 1
    with in_process(_broken) as gate:
        answer = _get(gate.port, url)
        assert (answer.status, b"internal" in answer.read()) == (500, True)
        (record,) = gate.wait_records(1)
        assert (record["reason"], record["detail"]) == (Reason.INTERNAL, "ZeroDivisionError")
    assert len(plain.seen) == 1


@pytest.mark.parametrize(
    "name", ["http_connect", "next_layer", "tls_clienthello", "responseheaders", "response", "error", "client_disconnected"]
)
def test_d1_whichever_hook_raises_nothing_gets_through_and_nothing_hangs(
    name: str, plain: RawOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process() as gate:
        addon = gate.gate._addon
        assert addon is not None

        def broken(_: object) -> None:
            raise ZeroDivisionError

        addon.table[name] = broken
        with socket.create_connection(("127.0.0.1", gate.port), 10) as sock:
            if name in ("http_connect", "tls_clienthello"):
                sock.sendall(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n")
                head = sock.recv(1000)
                if name == "tls_clienthello":
                    assert head.startswith(b"HTTP/1.1 200")
                    with pytest.raises((ssl.SSLError, OSError)):
                        ssl.create_default_context().wrap_socket(sock, server_hostname="x.test")
                else:
                    assert head.startswith(b"HTTP/1.1 500")
            else:
                sock.sendall(f"GET http://127.0.0.1:{plain.port}/x HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass
        assert gate.wait_records(1)[-1]["verdict"] in ("deny", "allow")
        end = time.monotonic() + 10
        while gate.jail.clients:
            assert time.monotonic() < end, "the connection was left behind"
            time.sleep(0.01)


def test_d3_a_crash_in_a_layer_does_not_leave_the_client_hanging(
    plain: RawOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.scripts["/t"] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: 1\r\n\r\n"
    with stock(tmp_path, NO_SCRIPT) as (port, _), pytest.raises(TimeoutError):
        _get(port, f"http://127.0.0.1:{plain.port}/t", 1.5)
    with in_process() as gate:

        def crash(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(h1.Http1Client, "read_headers", crash)
        with pytest.raises((http.client.BadStatusLine, ConnectionError)):
            _get(gate.port, f"http://127.0.0.1:{plain.port}/t")
        assert gate.wait_records(2)[-1]["reason"] == Reason.INTERNAL


def test_d4_the_address_that_was_checked_is_the_one_that_is_dialled(plain: RawOrigin, tmp_path: Path) -> None:
    """A resolver that says 127.0.0.1 when it is asked to check, and 127.0.0.2 when it is asked to dial."""
    evil = socket.create_server(("127.0.0.2", plain.port))
    evil.settimeout(5)
    script = """
import asyncio, socket
real = socket.getaddrinfo
def flip(host, *a, **k):
    if host == "rebind.test":
        flip.count += 1
        host = "127.0.0.1" if flip.count == 1 else "127.0.0.2"
    return real(host, *a, **k)
flip.count = 0
socket.getaddrinfo = flip
async def requestheaders(flow):
    infos = await asyncio.get_running_loop().getaddrinfo(flow.request.host, flow.request.port)
    assert infos[0][4][0] == "127.0.0.1"
"""
    with stock(tmp_path, script) as (port, _):
        sock = socket.create_connection(("127.0.0.1", port), 5)
        sock.sendall(f"GET http://rebind.test:{plain.port}/x HTTP/1.1\r\nHost: rebind.test:{plain.port}\r\n\r\n".encode())
        connection, _peer = evil.accept()
        assert connection.recv(10), "the stock engine dials what the second answer said"
        connection.close()
        sock.close()
    asked = []

    async def flip(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with in_process() as gate:
        gate.loop.getaddrinfo = flip  # type: ignore[method-assign, assignment]
        assert _get(gate.port, f"http://rebind.test:{plain.port}/x").status == 200
        assert gate.wait_records(1)[0]["addresses"] == ["127.0.0.1"]
    assert asked == ["rebind.test"]
    assert [s.header("host") for s in plain.seen] == [[f"rebind.test:{plain.port}"]]
    evil.close()


def test_d5_the_dial_is_bounded_and_tells_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    from outpass.gate import dialling

    monkeypatch.setattr(dialling, "CONNECT_S", 0.05)
    with in_process() as gate:

        async def never(*_: object) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(dialling, "race", never)
        answer = _get(gate.port, "http://127.0.0.1:1/x")
        assert (answer.status, b"upstream_timeout" in answer.read()) == (504, True)


def test_a_bug_while_dialling_is_an_answer_and_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    from outpass.gate import dialling

    async def broken(*_: object) -> Any:
        raise IndexError("a bug in the dialler")

    monkeypatch.setattr(dialling, "race", broken)
    with in_process() as gate:
        answer = _get(gate.port, "http://127.0.0.1:1/x")
        assert (answer.status, b"internal" in answer.read()) == (500, True)
        assert Reason.INTERNAL in {record["reason"] for record in gate.wait_records(1)}


def _slow(gathered: list[int], release: threading.Event) -> object:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gathered.append(1)
        while not release.is_set():
            await asyncio.sleep(0.01)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    return script


def _tunnel(port: int) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.sendall(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert b" 200 " in sock.recv(1000)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(sock, server_hostname="api.test")


def _redirected(port: int) -> str:
    return f"""
import socket
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, p, *a, **k: real("127.0.0.1" if host == "api.test" else host, {port} if host == "api.test" else p, *a, **k)
def requestheaders(flow): flow.request.stream = True
def responseheaders(flow): flow.response.stream = True
"""


def test_d6_more_than_five_requests_of_one_client_are_under_way_at_a_time(
    gate: Gate, origin: RawOrigin, bundle: Path, tmp_path: Path
) -> None:
    for kind in ("stock", "ours"):
        gathered: list[int] = []
        release = threading.Event()
        origin.scripts["/v1/slow"] = _slow(gathered, release)  # type: ignore[assignment]
        if kind == "stock":
            with stock(tmp_path, _redirected(origin.port), trusted=bundle) as (port, _):
                client = H2(Wire(_tunnel(port), gate))
                for _n in range(8):
                    client.request("/v1/slow", "api.test")
                until("the gate and the origin are so far", lambda seen=gathered: len(seen) >= 5, 10)
                time.sleep(0.3)
                assert len(gathered) == 5, "the stock engine lets five through"
                release.set()
        else:
            with gate.tunnel("api.test:443", "stripe", alpn=("h2",)) as wire:
                client = H2(wire)
                streams = [
                    client.request("/v1/slow", "api.test", extra=[("outpass-token", gate.mint("api.test:443", "stripe"))])
                    for _n in range(8)
                ]
                until("the gate and the origin are so far", lambda seen=gathered: len(seen) == 8, 10)
                release.set()
                assert [client.answer(s).status for s in streams] == [200] * 8


def test_d7_the_stock_engine_keeps_what_a_stalled_http2_reader_does_not_take(
    gate: Gate, origin: RawOrigin, bundle: Path, tmp_path: Path
) -> None:
    """Ours is in test_streaming.py: a few megabytes, and nothing is lost."""
    size = 200 * 1024 * 1024

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _n in range(size >> 18):
            writer.write(bytes(1 << 18))
            await writer.drain()

    origin.scripts["/v1/stalled"] = script
    with stock(tmp_path, _redirected(origin.port), trusted=bundle) as (port, process):
        client = H2(Wire(_tunnel(port), gate), stalled=True)
        client.request("/v1/stalled", "api.test")
        status = Path(f"/proc/{process.pid}/status")
        until(
            "the gate and the origin are so far", lambda: int(status.read_text().split("VmRSS:")[1].split()[0]) * 1024 > size, 60
        )


def test_c1_the_stock_engine_signs_leaves_with_the_cas_own_key_and_keeps_it_in_a_file(
    gate: Gate, origin: RawOrigin, bundle: Path, tmp_path: Path
) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

    with stock(tmp_path, _redirected(origin.port), trusted=bundle) as (port, _):
        der = _tunnel(port).getpeercert(binary_form=True)
        assert der is not None
        leaf = x509.load_der_x509_certificate(der)
        ca = x509.load_pem_x509_certificate((tmp_path / "conf" / "mitmproxy-ca-cert.pem").read_bytes())
        assert isinstance(leaf.public_key(), rsa.RSAPublicKey) and leaf.public_key() == ca.public_key()
        assert b"PRIVATE KEY" in (tmp_path / "conf" / "mitmproxy-ca.pem").read_bytes()


def test_o1_bytes_that_are_not_http_do_not_become_an_opaque_tunnel(tmp_path: Path) -> None:
    head = b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n"
    for kind in ("stock", "ours"):
        with socket.create_server(("127.0.0.1", 0)) as target:
            target.settimeout(5 if kind == "stock" else 0.3)
            manager = stock(tmp_path, NO_SCRIPT) if kind == "stock" else in_process()
            with manager as made:
                port = made[0] if isinstance(made, tuple) else made.port
                sock = socket.create_connection(("127.0.0.1", port), 5)
                sock.sendall(head % target.getsockname()[1])
                assert b" 200 " in sock.recv(1000)
                sock.sendall(b"SSH-2.0-x\r\n")
                if kind == "stock":
                    connection, _ = target.accept()
                    connection.settimeout(5)
                    assert connection.recv(100) == b"SSH-2.0-x\r\n", "the stock engine carries anything"
                    connection.close()
                else:
                    assert sock.recv(1000).startswith(b"HTTP/1.1 501")
                    with pytest.raises(TimeoutError):
                        target.accept()
                sock.close()


def test_o1_the_client_is_not_offered_ciphers_without_forward_secrecy(
    gate: Gate, origin: RawOrigin, bundle: Path, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with stock(tmp_path, _redirected(origin.port), trusted=bundle) as (port, _):
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n")
            assert b" 200 " in sock.recv(1000)
            assert context.wrap_socket(sock, server_hostname="api.test").cipher()
    with gate.connect() as wire:
        text = gate.mint("api.test:443", "stripe", use="connect")
        head = f"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        assert wire.ask(head).status == 200
        with pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(wire.sock, server_hostname="api.test")


def test_t11_an_origin_that_closes_after_every_answer_leaves_nothing_behind(plain: RawOrigin) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    plain.scripts["/close"] = script
    with in_process() as gate, socket.create_connection(("127.0.0.1", gate.port), 20) as sock:
        url = f"http://127.0.0.1:{plain.port}/close"
        before = plain.connections
        for n in range(40):
            until("the gate and the origin are so far", lambda n=n: plain.connections == before + n and _at_rest(gate), 10)
            sock.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            response = http.client.HTTPResponse(sock, method="GET")
            response.begin()
            assert (response.status, response.read()) == (200, b"ok")
        (client,) = gate.jail.clients
        layer = client.pressure.__self__  # type: ignore[attr-defined]
        assert len(layer.connections) <= 12
        assert len(layer.command_sources) <= 2


def _at_rest(gate: InProcess) -> bool:
    """Whether the gate has seen the ends of all its connections to the origin."""
    return all(client.sockets and len(client.sockets._transports) == 1 for client in gate.jail.clients)  # type: ignore[attr-defined]
