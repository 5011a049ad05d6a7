"""The choke points of websockets and websocket-client: their handshakes, and the CONNECT before them.

Lives here: where a pass is put into what they send before the first frame. May not live here: frames, which carry none.

Asyncio, threads and trio share the handshake of ClientProtocol, which sees no socket: which tunnel it is in is known as in _h11.
The old ("legacy") client has the transport, and never uses a proxy.
"""

from outpass_shim import _boot, _tunnel
from outpass_shim._h11 import tunnel_of
from outpass_shim._http import PROXY_HEADER, TOKEN_HEADER, for_connect, for_tunnel
from outpass_shim._registry import Any


def patch_protocol(module: Any) -> None:
    """websockets.client.ClientProtocol.send_request, from version 11 on."""
    protocol = module.ClientProtocol
    original = protocol.send_request

    def send_request(self: Any, request: Any) -> None:
        tunnel = tunnel_of(self, request.headers.get("Host", ""), 443 if _uri(self).secure else 80)
        with_pass(request.headers, tunnel, lambda: original(self, request))

    protocol.send_request = send_request


def _uri(protocol: Any) -> Any:
    return getattr(protocol, "uri", None) or protocol.wsuri


def patch_legacy(module: Any) -> None:
    """websockets.legacy.client.WebSocketClientProtocol.write_http_request."""
    protocol = module.WebSocketClientProtocol
    original = protocol.write_http_request

    def write_http_request(self: Any, path: str, headers: Any) -> None:
        tunnel = _tunnel.at(self.transport.get_extra_info("peername"))
        with_pass(headers, tunnel, lambda: original(self, path, headers))

    protocol.write_http_request = write_http_request


def with_pass(headers: Any, tunnel: "tuple[str, str] | None", send: Any) -> None:
    """Sends with a pass among the headers, and takes it out again: the program can look at what was sent."""
    token = None if tunnel is None else for_tunnel(tunnel[0], not tunnel[0].endswith(":80"), tunnel[1])
    if token is not None:
        headers[TOKEN_HEADER] = token
    try:
        send()
    finally:
        if token is not None:
            del headers[TOKEN_HEADER]


def patch_connect(module: Any) -> None:
    """prepare_connect_request, which makes the bytes of a CONNECT, in the modules that use it (from version 15 on)."""
    original = getattr(module, "prepare_connect_request", None)
    if original is None:
        return

    def prepare_connect_request(proxy: Any, ws_uri: Any, *args: Any, **kwargs: Any) -> bytes:
        request: bytes = original(proxy, ws_uri, *args, **kwargs)
        if f"{proxy.host}:{proxy.port}" != _boot.PROXY:
            return request
        place = _tunnel.authority(ws_uri.host, ws_uri.port)
        found = for_connect(place, ws_uri.secure)
        if found is None:
            return request
        _tunnel.opened.set((place.lower(), found[1]))
        lines = [line for line in request[:-4].split(b"\r\n") if not line.lower().startswith(b"proxy-authorization:")]
        return b"\r\n".join([*lines, f"{PROXY_HEADER}: {found[0]}".encode("ascii"), b"", b""])

    module.prepare_connect_request = prepare_connect_request


def patch_tunnel(module: Any) -> None:
    """websocket._http._tunnel of websocket-client, which writes a CONNECT and can only log in with a name and a password."""
    original = module._tunnel

    def _tunnel_(sock: Any, host: str, port: int, auth: Any) -> Any:
        found = for_connect(_tunnel.authority(host, port), port != 80) if _to_the_gate(sock) else None
        if found is None:
            return original(sock, host, port, auth)
        place = _tunnel.authority(host, port)
        module.send(sock, f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{PROXY_HEADER}: {found[0]}\r\n\r\n")
        try:
            status = module.read_headers(sock)[0]
        except (OSError, module.WebSocketException) as e:
            raise module.WebSocketProxyException(str(e)) from e
        if status != 200:
            raise module.WebSocketProxyException(f"failed CONNECT via proxy status: {status}")
        _tunnel.opened.set((place.lower(), found[1]))
        return sock

    module._tunnel = _tunnel_


def _to_the_gate(sock: Any) -> bool:
    host, port = sock.getpeername()[:2]
    return f"{host}:{port}" == _boot.PROXY


def patch_handshake(module: Any) -> None:
    """websocket._handshake._get_handshake_headers, the lines of the request; the tunnel is the one opened just before."""
    original = module._get_handshake_headers

    def _get_handshake_headers(resource: str, url: str, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        headers, *rest = original(resource, url, host, port, *args, **kwargs)
        last, place = _tunnel.opened.get(), _tunnel.authority(host, port).lower()
        token = for_tunnel(place, url.startswith("wss:"), last[1]) if last is not None and last[0] == place else None
        if token is not None:
            headers = [headers[0], f"{TOKEN_HEADER}: {token}", *headers[1:]]
        return (headers, *rest)

    module._get_handshake_headers = _get_handshake_headers
