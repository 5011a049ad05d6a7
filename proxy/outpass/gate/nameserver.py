"""The nameserver at every address of a jail: DNS over UDP and TCP on adopted sockets (RFC 1035, 7766, 6891, 8914).

Lives here: packets, sockets, limits. May not live here: what a query is answered with (naming.py).

A packet that is none is dropped or answered FORMERR; what is refused is answered REFUSED with an Extended DNS Error, at once,
so that nobody waits for a timeout. Answers come from the address that was asked (the packet information of the question).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from outpass.errors import StartError
from outpass.gate.jails import Jail
from outpass.gate.naming import Answer, Query
from outpass.gate.recorder import Recorder
from outpass.model import Capability
from outpass.reasons import Reason

TTL_S: Final = 60
"""Much less than the broker keeps an address that nobody asks for any more."""
PAYLOAD: Final = 1_232
"""Bytes of an answer over UDP; DNS flag day 2020."""
MAX_QUERY: Final = 4_096
RATE: Final = 100.0
"""Queries a second of one jail, over time; more are refused, and only counted."""
BURST: Final = 300.0
MAX_IN_FLIGHT: Final = 256
MAX_CONNECTIONS: Final = 64
IDLE_S: Final = 10.0
COUNT_S: Final = 1.0
"""Seconds of which the queries over the limit become one record."""
_AT_ONCE: Final = 64
_IP_PKTINFO: Final = 8

Decide = Callable[[Jail, Query], Awaitable[Answer]]


class Limits:
    """What one jail may ask: a token bucket, and how many queries are being answered."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = BURST
        self._at = clock()
        self.in_flight = 0
        self.connections = 0
        self.over = 0

    def take(self) -> bool:
        """Whether one more query is answered."""
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._at) * RATE)
        self._at = now
        if self._tokens < 1 or self.in_flight >= MAX_IN_FLIGHT:
            return False
        self._tokens -= 1
        return True


class Nameserver:
    """Serves the DNS listeners of every jail of a gate."""

    def __init__(self, decide: Decide, recorder: Recorder, clock: Callable[[], float]) -> None:
        """`decide` answers one query (Addon.dns_request); `clock` gives seconds, of any origin."""
        self._decide = decide
        self._recorder = recorder
        self._clock = clock
        self._limits: dict[str, Limits] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def datagrams(self, jail: Jail, sock: socket.socket) -> Datagrams:
        """Answer on a bound UDP socket. Raises StartError when it is none."""
        return Datagrams(self, jail, sock)

    def connection(self, jail: Jail, sock: socket.socket) -> None:
        """Answer on an accepted TCP connection."""
        limits = self.limits(jail)
        if jail.removed or limits.connections >= MAX_CONNECTIONS:
            sock.close()
            return
        limits.connections += 1
        self.spawn(self._stream(jail, sock, limits))

    def limits(self, jail: Jail) -> Limits:
        """The jail's; those of jails that are gone are forgotten with the next new one."""
        found = self._limits.get(jail.id)
        if found is None:
            found = self._limits[jail.id] = Limits(self._clock)
            while len(self._limits) > 1_024:
                del self._limits[next(iter(self._limits))]
        return found

    def spawn(self, work: Any) -> None:
        """Run `work` to its end."""
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reply(self, jail: Jail, data: bytes, limit: int | None) -> bytes | None:
        """The answer to one packet, cut to `limit` bytes at most; None: none at all."""
        if len(data) < 12 or data[2] & 0x80:  # no header, or an answer: answering that could go on for ever
            return None
        limits = self.limits(jail)
        if not limits.take():
            self._over(jail, limits)
            return _short(data, dns.rcode.REFUSED)
        try:
            query = dns.message.from_wire(data)
        except Exception:  # the parser's own exceptions, and whatever hostile bytes bring out of it
            self._recorder.refusal(jail, Reason.BAD_REQUEST, capability=Capability.DNS, detail="this is not a DNS message")
            return _short(data, dns.rcode.FORMERR)
        limits.in_flight += 1
        try:
            return await self._answer(jail, query, limit)
        except Exception as error:
            self._recorder.refusal(jail, Reason.INTERNAL, capability=Capability.DNS, detail=type(error).__name__)
            return _short(data, dns.rcode.SERVFAIL)
        finally:
            limits.in_flight -= 1

    async def _answer(self, jail: Jail, query: dns.message.Message, limit: int | None) -> bytes:
        if query.opcode() != dns.opcode.QUERY:
            return _finished(query, dns.rcode.NOTIMP, limit)
        if query.edns > 0:
            return _finished(query, dns.rcode.BADVERS, limit)
        if len(query.question) != 1:
            return _finished(query, dns.rcode.FORMERR, limit)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        if question.rdclass != dns.rdataclass.IN:
            kind = f"{dns.rdataclass.to_text(question.rdclass)} {kind}"
        answer = await self._decide(jail, Query(question.name.to_text(omit_final_dot=True), kind))
        if answer.reason is not None:
            broken = answer.reason in (Reason.BROKER_UNAVAILABLE, Reason.INTERNAL, Reason.AUDIT_UNAVAILABLE)
            refused = dns.rcode.NXDOMAIN if answer.absent else dns.rcode.REFUSED
            return _finished(query, dns.rcode.SERVFAIL if broken else refused, limit, answer.reason)
        if answer.absent:
            return _finished(query, dns.rcode.NXDOMAIN, limit)
        records = []
        if answer.address is not None:
            records = [dns.rrset.from_text(question.name, TTL_S, "IN", "A", answer.address)]
        elif answer.name is not None:
            records = [dns.rrset.from_text(question.name, TTL_S, "IN", "PTR", f"{answer.name}.")]
        return _finished(query, dns.rcode.NOERROR, limit, records=records)

    def _over(self, jail: Jail, limits: Limits) -> None:
        limits.over += 1
        if limits.over == 1:
            self._loop.call_later(COUNT_S, self._count, jail, limits)

    def _count(self, jail: Jail, limits: Limits) -> None:
        count, limits.over = limits.over, 0
        self._recorder.refusal(jail, Reason.DNS_LIMIT, capability=Capability.DNS, detail=f"{count} look-ups over the limit")

    async def _stream(self, jail: Jail, sock: socket.socket, limits: Limits) -> None:
        """RFC 7766: two bytes of length, then the message; any number of them."""
        writer = None
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
            while not jail.removed:
                async with asyncio.timeout(IDLE_S):
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    if length > MAX_QUERY:
                        return
                    data = await reader.readexactly(length)
                answer = await self.reply(jail, data, None)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            limits.connections -= 1
            if writer is not None:
                writer.close()
            else:
                sock.close()


class Datagrams:
    """One UDP socket of a jail."""

    def __init__(self, server: Nameserver, jail: Jail, sock: socket.socket) -> None:
        if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise StartError("the gate was handed something that is not a UDP socket for DNS")
        sock.setblocking(False)
        self._server = server
        self._jail = jail
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._ready)

    def close(self) -> None:
        """Answer nothing more."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _ready(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, ancillary, flags, peer = self._sock.recvmsg(MAX_QUERY, 256)
            except OSError:
                return
            if not flags & socket.MSG_TRUNC:
                self._server.spawn(self._one(data, _from(ancillary), peer))

    async def _one(self, data: bytes, source: list[tuple[int, int, bytes]], peer: Any) -> None:
        answer = await self._server.reply(self._jail, data, PAYLOAD)
        if answer is not None and self._sock.fileno() >= 0:
            with contextlib.suppress(OSError):  # a full buffer, or a peer that is gone: it asks again
                self._sock.sendmsg([answer], source, 0, peer)


def _from(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Packet information for an answer that comes from the address to which the question went."""
    for level, kind, content in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            # struct in_pktinfo: interface, our address for the reply, the header's destination
            return [(level, kind, bytes(4) + content[8:12] + bytes(4))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return [(level, kind, content[:16] + bytes(4))]
    return []


def _short(data: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """An answer to a message that was not read: its header alone, with the code."""
    return data[:2] + bytes((0x80 | data[2] & 0x79, 0x80 | rcode)) + bytes(8)


def _finished(
    query: dns.message.Message,
    rcode: dns.rcode.Rcode,
    limit: int | None,
    reason: Reason | None = None,
    records: list[dns.rrset.RRset] | None = None,
) -> bytes:
    """The answer's bytes; where they do not fit, the truncated answer that sends the client to TCP (RFC 2181, section 9)."""
    answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD)
    if query.edns >= 0:
        options: list[dns.edns.Option] = [] if reason is None else [dns.edns.EDEOption(_ede(reason), f"outpass: {reason.value}")]
        answer.use_edns(0, payload=PAYLOAD, options=options)
    answer.set_rcode(rcode)
    answer.answer = records or []
    room = 65_535
    if limit is not None:
        room = min(limit, max(512, query.payload if query.edns >= 0 else 512))
    try:
        return answer.to_wire(max_size=room)
    except dns.exception.TooBig:
        answer.answer = []
        answer.flags |= dns.flags.TC
        if query.edns >= 0:
            answer.use_edns(0, payload=PAYLOAD)
        return answer.to_wire()


def _ede(reason: Reason) -> dns.edns.EDECode:
    """RFC 8914: 15, the operator does not want this name; 18, the client may not ask this."""
    return dns.edns.EDECode.BLOCKED if reason in _BLOCKED else dns.edns.EDECode.PROHIBITED


_BLOCKED: Final = frozenset({Reason.NO_RULE, Reason.DNS_SEARCH, Reason.DENIED_BY_RULE, Reason.OUTSIDE_CEILING, Reason.EXPIRED})
