"""Bytes between sockets and layers: TLS outside the layers, one write per turn, and who waits for whom."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.connection import Client, Connection, ConnectionState, Server
from mitmproxy.proxy import events
from mitmproxy.proxy.server import ConnectionIO
from OpenSSL import SSL

from outpass.gate.engine.pacing import BEHIND, Settle
from outpass.gate.engine.seal import Seal
from outpass.gate.engine.watcher import BACKLOG_HIGH
from outpass.gate.wires import Wires

CA = trustme.CA()


class Peer:
    """The other end of a handshake that is over: Python's own TLS, on memory."""

    def __init__(self) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        leaf = CA.issue_cert("api.test")
        context.use_certificate(leaf_certificate(leaf))
        context.use_privatekey(leaf_key(leaf))
        self.tls = SSL.Connection(context)
        self.tls.set_accept_state()
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        CA.configure_trust(theirs)
        self.into, self.out_of = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = theirs.wrap_bio(self.into, self.out_of, server_hostname="api.test")
        for _ in range(4):
            for step in (self.object.do_handshake, self.tls.do_handshake):
                try:
                    step()
                except (ssl.SSLWantReadError, SSL.WantReadError):
                    pass
                self._swap()
        assert self.object.version() == "TLSv1.3"
        self.seal = Seal(self.tls)

    def _swap(self) -> None:
        if data := self.out_of.read():
            self.tls.bio_write(data)
        try:
            self.into.write(self.tls.bio_read(1 << 16))
        except SSL.WantReadError:
            pass

    def says(self, text: bytes) -> bytes:
        """The records in which the peer sends `text`."""
        sent = 0
        while sent < len(text):
            sent += self.object.write(text[sent:])
        return self.out_of.read()

    def hears(self, records: bytes) -> bytes:
        """What the peer reads in `records`."""
        self.into.write(records)
        made = b""
        try:
            while True:
                made += self.object.read(1 << 20)
        except ssl.SSLWantReadError:
            return made


def leaf_certificate(leaf: trustme.LeafCert) -> Any:
    from cryptography import x509

    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())


def leaf_key(leaf: trustme.LeafCert) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(leaf.private_key_pem.bytes(), None)


@pytest.fixture(scope="module")
def peer() -> Peer:
    return Peer()


@given(text=st.binary(max_size=40_000), cuts=st.lists(st.integers(0, 45_000), max_size=4))
def test_what_is_said_is_heard_however_the_records_are_cut(peer: Peer, text: bytes, cuts: list[int]) -> None:
    """Invariant: text crosses a seal unchanged in both directions, wherever the network cuts its records."""
    records = peer.says(text)
    places = [0, *sorted(min(c, len(records)) for c in cuts), len(records)]
    parts = [records[a:b] for a, b in itertools.pairwise(places) if a < b]
    heard = [peer.seal.decipher(part) for part in parts]
    assert b"".join(plain for plain, _ in heard) == text and not any(closed for _, closed in heard)
    assert peer.hears(peer.seal.encipher(text)) == text


def test_a_megabyte_is_enciphered_whole(peer: Peer) -> None:
    text = bytes(range(256)) * 4096
    assert peer.hears(peer.seal.encipher(text)) == text, "a write may stop after any record"


def test_a_close_notify_is_told_with_what_came_before_it() -> None:
    peer = Peer()
    records = peer.says(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        peer.object.unwrap()
    assert not peer.seal.peer_closed
    assert peer.seal.decipher(records + peer.out_of.read()) == (b"last words", True)
    assert peer.seal.peer_closed
    assert peer.seal.decipher(b"") == (b"", True)


def test_bytes_that_are_no_record_are_answered_with_an_alert_and_nothing_is_made_of_them() -> None:
    peer = Peer()
    assert peer.seal.decipher(b"GET / HTTP/1.1\r\n\r\n" * 8) == (b"", False)
    with pytest.raises(ssl.SSLError, match="alert"):
        peer.hears(peer.seal.waiting())
    assert peer.seal.encipher(b"secret") == b"", "nothing is sent on a session that is broken"


def test_a_changed_record_gives_no_text() -> None:
    peer = Peer()
    record = bytearray(peer.says(b"pay alice"))
    record[-1] ^= 1
    assert peer.seal.decipher(bytes(record)) == (b"", False)


# --- wires -----------------------------------------------------------------------------------------------------------


class Rig:
    """Two real socket pairs, a client's and an origin's, under one Wires."""

    def __init__(self) -> None:
        self.client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), state=ConnectionState.OPEN)
        self.origin = Server(address=("api.test", 443))
        self.origin.state = ConnectionState.OPEN
        self.transports: dict[Connection, ConnectionIO] = {}
        self.pressure: dict[Connection, int] = {}
        self.kept: Any = SimpleNamespace(pressure=lambda c: self.pressure.get(c, 0), queued=None, holds=False)
        self.taken: list[events.Event] = []
        self.came = asyncio.Event()
        self.wires = Wires(self.transports, self.client, self.kept, self._take)
        self.tasks: dict[Connection, asyncio.Task[None]] = {}
        self.far: dict[Connection, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def open(self) -> Rig:
        for connection in (self.client, self.origin):
            near, far = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=near)
            self.far[connection] = await asyncio.open_connection(sock=far)
            self.transports[connection] = ConnectionIO(None, reader, writer)
            self.tasks[connection] = asyncio.create_task(self.wires.serve(connection))
            await asyncio.sleep(0)
        return self

    def _take(self, event: events.Event) -> None:
        self.taken.append(event)
        self.came.set()
        self.wires.flush()
        self.wires.release()

    async def until(self, done: Any) -> None:
        async with asyncio.timeout(30):
            while not done():
                self.came.clear()
                await self.came.wait()

    def heard(self, connection: Connection) -> bytes:
        return b"".join(e.data for e in self.taken if isinstance(e, events.DataReceived) and e.connection is connection)

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        for _, writer in self.far.values():
            writer.close()


def _run(story: Any) -> None:
    async def play() -> None:
        rig = await Rig().open()
        try:
            await story(rig)
        finally:
            await rig.close()

    asyncio.run(play())


def test_what_one_turn_sends_is_one_write() -> None:
    async def story(rig: Rig) -> None:
        writer = rig.wires.writer(rig.client)
        assert writer is not None
        writes: list[bytes] = []
        writer.write = writes.append  # type: ignore[method-assign, assignment]
        for part in (b"head", b"body", b"end"):
            rig.wires.queue(rig.client, part)
        rig.wires.flush()
        rig.wires.flush()
        assert writes == [b"headbodyend"]

    _run(story)


def test_an_origin_is_not_read_while_its_client_does_not_read_and_nothing_is_lost() -> None:
    async def story(rig: Rig) -> None:
        rig.wires.queue(rig.client, bytes(1 << 23))
        rig.wires.flush()
        far_origin = rig.far[rig.origin][1]
        far_origin.write(b"a")
        await rig.until(lambda: rig.heard(rig.origin) == b"a")
        far_origin.write(b"b")
        pump = rig.wires._pumps[rig.origin]
        assert pump.held, "the client's kernel buffer is full"
        assert len(await rig.far[rig.client][0].readexactly(1 << 23)) == 1 << 23
        await rig.until(lambda: rig.heard(rig.origin) == b"ab")
        assert not pump.held

    _run(story)


def test_a_side_waits_while_too_much_is_kept_of_what_it_said() -> None:
    async def story(rig: Rig) -> None:
        rig.pressure[rig.origin] = BACKLOG_HIGH + 1
        rig.far[rig.origin][1].write(b"x")
        await rig.until(lambda: rig.heard(rig.origin) == b"x")
        assert rig.wires._pumps[rig.origin].held and not rig.wires._pumps[rig.client].held
        rig.pressure.clear()
        rig.far[rig.client][1].write(b"a WINDOW_UPDATE")  # what the client says is still heard, and lets the origin go on
        await rig.until(lambda: rig.heard(rig.client) == b"a WINDOW_UPDATE")
        assert not rig.wires._pumps[rig.origin].held

    _run(story)


def test_layers_are_told_when_what_they_sent_has_left() -> None:
    async def story(rig: Rig) -> None:
        rig.wires.queue(rig.client, bytes(1 << 23))
        rig.wires.flush()
        assert rig.wires.unsent(rig.client) > BEHIND and rig.wires.unsent(rig.origin) == 0
        rig.wires.settle_when_sent(rig.client)
        rig.wires.settle_when_sent(rig.client)
        await asyncio.sleep(0)
        assert not rig.taken
        await rig.far[rig.client][0].readexactly(1 << 23)
        await rig.until(lambda: rig.taken)
        assert [type(e) for e in rig.taken] == [Settle] and rig.wires.unsent(rig.client) <= BEHIND
        rig.wires.settle_when_sent(rig.origin)
        assert len(rig.taken) == 1, "not now: a layer asked"
        await rig.until(lambda: len(rig.taken) == 2)

    _run(story)


def test_a_full_origin_stops_an_http1_client_and_not_an_http2_one() -> None:
    async def story(rig: Rig) -> None:
        rig.wires.queue(rig.origin, bytes(1 << 23))
        rig.wires.flush()
        pump = rig.wires._pumps[rig.client]
        for alpn, held in ((b"h2", False), (b"http/1.1", True)):
            rig.client.alpn = alpn
            rig.far[rig.client][1].write(alpn)
            await rig.until(lambda alpn=alpn: rig.heard(rig.client).endswith(alpn))
            assert pump.held is held

    _run(story)


def test_a_parked_client_is_not_read_until_it_stays() -> None:
    async def story(rig: Rig) -> None:
        rig.wires.park(True)
        rig.far[rig.client][1].write(b"hello")
        rig.far[rig.origin][1].write(b"x")
        await rig.until(lambda: rig.heard(rig.origin) == b"x")
        assert rig.heard(rig.client) == b"" and rig.wires._pumps[rig.client].held and rig.kept.holds
        rig.wires.park(False)
        await rig.until(lambda: rig.heard(rig.client) == b"hello")
        assert not rig.kept.holds

    _run(story)


def test_a_half_closed_side_may_still_be_written_to_and_a_lost_one_is_over() -> None:
    async def story(rig: Rig) -> None:
        rig.far[rig.client][1].write_eof()
        await rig.until(lambda: any(isinstance(e, events.ConnectionClosed) for e in rig.taken))
        assert rig.client.state is ConnectionState.CAN_WRITE
        rig.wires.queue(rig.client, b"late")
        rig.wires.flush()
        assert await rig.far[rig.client][0].readexactly(4) == b"late"
        rig.transports[rig.origin].writer.transport.abort()  # type: ignore[union-attr]
        await rig.until(lambda: rig.tasks[rig.origin].done() or len(rig.taken) == 2)
        async with asyncio.timeout(30):
            await asyncio.wait([rig.tasks[rig.origin]])
        assert rig.origin.state is ConnectionState.CLOSED and rig.origin not in rig.transports

    _run(story)


def test_what_came_before_the_pump_is_heard_first() -> None:
    async def story() -> None:
        rig = Rig()
        near, far = socket.socketpair()
        far.sendall(b"early")
        far.shutdown(socket.SHUT_WR)
        reader, writer = await asyncio.open_connection(sock=near)
        async with asyncio.timeout(30):
            while not reader._eof:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
        rig.transports[rig.client] = ConnectionIO(None, reader, writer)
        task = asyncio.create_task(rig.wires.serve(rig.client))
        await rig.until(lambda: len(rig.taken) == 2)
        assert rig.heard(rig.client) == b"early" and isinstance(rig.taken[1], events.ConnectionClosed)
        task.cancel()
        await asyncio.wait([task])
        far.close()

    asyncio.run(story())
