"""The choke point of http.client: urllib, urllib3, requests, botocore.

Lives here: where a pass is put into an HTTP/1.1 request of the standard library. May not live here: who asks (_chain).

The pass is minted in `endheaders`, after the connection stands and before a byte of the request is sent. `putrequest` would be
too early (the tunnel opens later, and a pass lives 30 s), `_send_output` is replaced by botocore, `_tunnel` by urllib3; all of
them call `endheaders`, on every Python from 3.9 on. A CONNECT's headers are a dictionary that mints when they are listed.
"""

from outpass_shim import _boot, _session, _tunnel
from outpass_shim._registry import Any
from outpass_shim._tunnel import authority, tunnels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

PROXY_HEADER, TOKEN_HEADER = "Proxy-Authorization", "Outpass-Token"


def of_url(target: str) -> "tuple[str, bool]":
    """(authority with port, https?) of an absolute-form target."""
    scheme, _, rest = target.partition("://")
    place = rest.split("/", 1)[0].split("?", 1)[0].split("#", 1)[0].rpartition("@")[2]
    tls = scheme.lower() == "https"
    return with_port(place, 443 if tls else 80), tls


def with_port(place: str, port: int) -> str:
    """`host` or `host:port` with the port that is meant."""
    _, colon, digits = place.rpartition(":")
    return place if colon and digits.isdigit() and not place.endswith("]") else f"{place.rstrip(':')}:{port}"


def for_connect(place: str, tls: bool) -> "tuple[str, str] | None":
    """(header value, tunnel) for a CONNECT to `place`; remembers what kind of tunnel it will be."""
    minted = _session.mint("connect", place, tls)
    if minted is None:
        return None
    tunnels[place.lower()] = minted[1]
    return "Bearer " + minted[0], minted[1]


def for_tunnel(place: str, tls: bool, kind: "str | None") -> "str | None":
    """The pass for a request inside a tunnel of this kind; None: it gets none, and none is minted for an opaque one."""
    if kind == "opaque":
        return None
    minted = _session.mint("request", place, tls)
    if minted is None or (kind is None and minted[1] == "opaque"):
        return None
    return minted[0]


class _ConnectHeaders(dict):  # type: ignore[type-arg]
    """The headers of a CONNECT, with a pass that is as old as the listing of them."""

    def __init__(self, headers: "Iterable[tuple[str, str]]", connection: Any) -> None:
        super().__init__(headers)
        self.connection = connection

    def items(self) -> Any:
        headers, connection = dict(self), self.connection
        if at_proxy(connection):
            place = authority(connection._tunnel_host, connection._tunnel_port)
            found = for_connect(place, connection.default_port == 443)
            if found is not None:
                headers = {k: v for k, v in headers.items() if k.lower() != "proxy-authorization"}
                headers[PROXY_HEADER], connection._outpass_tunnel = found
        return headers.items()


def at_proxy(connection: Any) -> bool:
    """Whether this connection goes to the gate. A pass is shown to nobody else."""
    host, _, port = _boot.PROXY.rpartition(":")
    return str(connection.port) == port and (connection.host == host or (connection.host, host) == ("localhost", "127.0.0.1"))


def patch(module: Any) -> None:
    """Wraps HTTPConnection.endheaders and set_tunnel; every subclass calls both."""
    connection = module.HTTPConnection
    original_end, original_tunnel = connection.endheaders, connection.set_tunnel
    started = module._CS_REQ_STARTED

    def endheaders(self: Any, message_body: Any = None, **kwargs: Any) -> None:
        if self._HTTPConnection__state == started and self._buffer:
            if self.sock is None and self.auto_open:
                try:
                    self.connect()  # as send() would, a moment later
                except BaseException:
                    del self._buffer[:]  # as _send_output would have, before connecting
                    raise
            _attach(self)
        original_end(self, message_body, **kwargs)

    def set_tunnel(self: Any, *args: Any, **kwargs: Any) -> None:
        original_tunnel(self, *args, **kwargs)
        self._tunnel_headers = _ConnectHeaders(self._tunnel_headers.items(), self)

    connection.endheaders, connection.set_tunnel = endheaders, set_tunnel


def _attach(connection: Any) -> None:
    if not at_proxy(connection):
        direct = _tunnel.behind(connection.sock)
        found = None if direct is None else for_tunnel(direct[0], hasattr(connection.sock, "getpeercert"), direct[1])
        if found is not None:
            connection._buffer.append(f"{TOKEN_HEADER}: {found}".encode("ascii"))
        return
    line = connection._buffer[0]
    target = (line.decode("latin-1") if isinstance(line, bytes) else line).split(" ")[1]
    if connection._tunnel_host:
        place = authority(connection._tunnel_host, connection._tunnel_port)
        tls = hasattr(connection.sock, "getpeercert")
        found = for_tunnel(place, tls, getattr(connection, "_outpass_tunnel", None))
        if found is not None:
            connection._buffer.append((f"{TOKEN_HEADER}: {found}").encode("ascii"))
    elif "://" in target:
        minted = _session.mint("request", *of_url(target))
        if minted is not None:
            # A user name in the proxy's URL would come as a second one, and the gate refuses two.
            connection._buffer[1:] = [h for h in connection._buffer[1:] if not _is_proxy_header(h)]
            connection._buffer.append((f"{PROXY_HEADER}: Bearer {minted[0]}").encode("ascii"))


def _is_proxy_header(line: Any) -> bool:
    text = line.decode("latin-1") if isinstance(line, bytes) else line
    return bool(text.lower().startswith("proxy-authorization:"))
