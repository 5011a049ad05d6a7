"""dnspython's queries, made by the broker for whoever asks, with `network:dns`: a jail has no nameserver that would answer them.

Lives here: which queries are taken over, and the answer as dnspython's message. May not live here: leave to ask (the broker's).

Only plain questions to port 53 are taken: a zone transfer, an update or DNS over TLS goes the way of any other socket.
"""

from outpass_shim import _guard, _session
from outpass_shim._registry import Any

_library: Any = None
"""The program's dnspython."""
_LOOPBACK = ("127.0.0.1", "::1")


def patch(module: Any) -> None:
    """dns.query.udp and tcp."""
    _take(module)
    for name in ("udp", "tcp"):
        setattr(module, name, _wrapped(getattr(module, name)))


def patch_async(module: Any) -> None:
    """dns.asyncquery.udp and tcp, where asyncio runs."""
    _take(module)
    for name in ("udp", "tcp"):
        setattr(module, name, _wrapped_async(getattr(module, name)))


def _take(module: Any) -> None:
    global _library
    _library = module.dns


def _wrapped(original: Any) -> Any:
    def query(q: Any, where: str, timeout: "float | None" = None, port: int = 53, *args: Any, **kwargs: Any) -> Any:
        if not _taken(q, where, port):
            return original(q, where, timeout, port, *args, **kwargs)
        return _ask(q)

    query.__name__, query.__doc__ = original.__name__, original.__doc__
    return query


def _wrapped_async(original: Any) -> Any:
    async def query(q: Any, where: str, timeout: "float | None" = None, port: int = 53, *args: Any, **kwargs: Any) -> Any:
        if not _taken(q, where, port):
            return await original(q, where, timeout, port, *args, **kwargs)
        import asyncio

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio: it waits a little
            return _ask(q)
        return await loop.run_in_executor(None, _ask, q)

    query.__name__, query.__doc__ = original.__name__, original.__doc__
    return query


def _taken(q: Any, where: str, port: int) -> bool:
    """One question of class IN for the nameserver; one on loopback is the program's own, where there is no jail."""
    question: Any = getattr(q, "question", ())
    plain = port == 53 and len(question) == 1 and question[0].rdclass == 1 and q.opcode() == 0
    return plain and _session.ensure() and (_session.jailed or where not in _LOOPBACK)


def _ask(q: Any) -> Any:
    """The broker's answer to `q`. Raises EgressDenied."""
    dns = _library
    question = q.question[0]
    name, rtype = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
    chain, reply, refusal = _session.query(name, rtype)
    answer = dns.message.make_response(q)
    answer.flags |= dns.flags.RA
    if refusal is not None:
        if refusal[0] == "resolve_failed":
            answer.set_rcode(dns.rcode.SERVFAIL)
            return answer
        _guard.refuse("network:dns", name + ":53", chain, refusal)
    if reply.get("absent"):
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif reply.get("answers"):
        owner, canonical = question.name, str(reply.get("name", name)) + "."
        ttl = int(reply.get("ttl", 0))
        if canonical.lower() != owner.to_text().lower():
            answer.answer.append(dns.rrset.from_text(owner, ttl, "IN", "CNAME", canonical))
            owner = canonical
        answer.answer.append(dns.rrset.from_text_list(owner, ttl, "IN", rtype, reply["answers"]))
    return answer
