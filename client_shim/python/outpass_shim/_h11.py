"""The choke points of h11 and h2: httpx, httpcore and what is built on them.

Lives here: where a pass is put into a request of these two. May not live here: servers' use of them (the role is checked).

Neither sees the socket. A request is inside a tunnel of ours if its connection's first request followed a CONNECT in the same
context (httpcore opens a tunnel and sends the first request in one go), or if a CONNECT to its host was ever made here; so a
request over a Unix socket or to loopback is left alone.
"""

import sys

from outpass_shim import _session
from outpass_shim._http import PROXY_HEADER, TOKEN_HEADER, for_connect, for_tunnel, of_url, with_port
from outpass_shim._registry import Any
from outpass_shim._tunnel import opened, tunnels


def tunnel_of(connection: Any, host: str, port: int = 0) -> "tuple[str, str] | None":
    """(authority, kind) of the tunnel that this connection runs in, None if none. `port`: the default one, if known."""
    known: tuple[str, str] | None = getattr(connection, "_outpass_tunnel", None)
    if known is None:
        last = opened.get()
        places = [with_port(host, p).lower() for p in ((port,) if port else (443, 80))]
        # The port of a request to a default port is not in its Host, so the opened tunnel's counts (https on 80, http on 443).
        if last is not None and last[0] in places:
            known = last
        else:
            # A connection that was made in another task of the same request (happy eyeballs).
            known = next(((p, tunnels[p]) for p in places if p in tunnels), None)
        if known is not None:
            connection._outpass_tunnel = known
    return known


def patch_h11(module: Any) -> None:
    """h11.Connection.send_with_data_passthrough, which send() calls; only a client's requests."""
    connection, request, client = module.Connection, module.Request, module.CLIENT
    original = connection.send_with_data_passthrough

    def send_with_data_passthrough(self: Any, event: Any) -> Any:
        if isinstance(event, request) and self.our_role is client:
            header = _for_h11(self, event)
            if header is not None:
                event = _with_header(event, *header)
        return original(self, event)

    connection.send_with_data_passthrough = send_with_data_passthrough


def _for_h11(connection: Any, event: Any) -> "tuple[bytes, bytes] | None":
    target = bytes(event.target).decode("latin-1")
    if event.method == b"CONNECT":
        found = for_connect(target, not target.endswith(":80"))
        if found is None:
            return None
        opened.set((target.lower(), found[1]))
        return PROXY_HEADER.encode(), found[0].encode()
    if "://" in target.partition("?")[0] and target[:1] != "/":
        minted = _session.mint("request", *of_url(target))
        return None if minted is None else (PROXY_HEADER.encode(), b"Bearer " + minted[0].encode())
    host = next((value for name, value in event.headers if name == b"host"), b"").decode("latin-1")
    tunnel = tunnel_of(connection, host)
    token = None if tunnel is None else for_tunnel(tunnel[0], not tunnel[0].endswith(":80"), tunnel[1])
    return None if token is None else (TOKEN_HEADER.encode(), token.encode())


def _with_header(event: Any, name: bytes, value: bytes) -> Any:
    raw = event.headers.raw_items() if hasattr(event.headers, "raw_items") else list(event.headers)
    kept = [(n, v) for n, v in raw if n.lower() != b"proxy-authorization"] if name == PROXY_HEADER.encode() else list(raw)
    return type(event)(method=event.method, target=event.target, headers=[*kept, (name, value)], http_version=event.http_version)


def patch_h2(module: Any) -> None:
    """H2Connection.send_headers of h2 (and of jh2, a fork that niquests has), for a client's new streams (not for trailers)."""
    # A pass is good once: in the peer's table it would only take room.
    never_indexed = getattr(module, "NeverIndexedHeaderTuple", None) or sys.modules["hpack"].NeverIndexedHeaderTuple
    connection = module.H2Connection
    original = connection.send_headers

    def send_headers(self: Any, stream_id: int, headers: Any, *args: Any, **kwargs: Any) -> Any:
        if self.config.client_side and stream_id not in self.streams:
            headers = list(headers)
            host = next((v for n, v in headers if n in (b":authority", ":authority")), "")
            tunnel = tunnel_of(self, host.decode("latin-1") if isinstance(host, bytes) else host)
            token = None if tunnel is None else for_tunnel(tunnel[0], True, tunnel[1])
            if token is not None:
                pair = (TOKEN_HEADER.lower(), token)
                binary = isinstance(headers[0][0], bytes)
                headers.append(never_indexed(*(x.encode() for x in pair) if binary else pair))
        return original(self, stream_id, headers, *args, **kwargs)

    connection.send_headers = send_headers
