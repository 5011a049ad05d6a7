"""The choke point of aiohttp: requests and websockets of its client, through the proxy (trust_env, proxy=) and without it.

Lives here: where a pass is put into a request of aiohttp. May not live here: its server, which sends no requests.

Everything, CONNECT included, is sent by ClientRequest.send, which has the connection at hand. The header is taken out again once
it is sent: a response shows the request's headers to whoever has it.
"""

from outpass_shim import _boot, _session, _tunnel
from outpass_shim._http import PROXY_HEADER, TOKEN_HEADER, for_connect, for_tunnel
from outpass_shim._registry import Any

_tunnels: "dict[Any, tuple[str, str]]" = {}
"""Our end of a connection to the gate → (authority, kind) of the tunnel that was asked for on it."""


def patch(module: Any) -> None:
    """aiohttp.client_reqrep.ClientRequest.send; in 3.14 a CONNECT's is that of its base class."""
    for name in ("ClientRequestBase", "ClientRequest"):
        owner = getattr(module, name, None)
        if owner is not None and "send" in vars(owner):
            _wrap(owner)


def _wrap(owner: Any) -> None:
    original = owner.send

    async def send(self: Any, conn: Any, *args: Any, **kwargs: Any) -> Any:
        header = _header(self, conn)
        if header is None:
            return await original(self, conn, *args, **kwargs)
        self.headers[header[0]] = header[1]
        try:
            return await original(self, conn, *args, **kwargs)
        finally:
            self.headers.pop(header[0], None)

    owner.send = send


def _header(request: Any, conn: Any) -> "tuple[str, str] | None":
    place, tls = _tunnel.authority(request.url.raw_host, request.url.port), request.url.scheme in ("https", "wss")
    transport = getattr(conn, "transport", None)
    ours, peer = (None, None) if transport is None else (transport.get_extra_info(n) for n in ("sockname", "peername"))
    if peer is None:
        return None
    to_gate = f"{peer[0]}:{peer[1]}" == _boot.PROXY if isinstance(peer, tuple) else False
    if request.method == "CONNECT":
        found = for_connect(place, tls) if to_gate else None
        if found is None:
            return None
        if len(_tunnels) >= _tunnel.MAX_NAMES:
            _tunnels.clear()
        _tunnels[ours] = (place, found[1])
        return PROXY_HEADER, found[0]
    if to_gate and not tls:
        minted = _session.mint("request", place, tls)
        return None if minted is None else (PROXY_HEADER, "Bearer " + minted[0])
    tunnel = _tunnels.get(ours) if to_gate else _tunnel.at(peer)
    token = None if tunnel is None else for_tunnel(tunnel[0], tls, tunnel[1])
    return None if token is None else (TOKEN_HEADER, token)
