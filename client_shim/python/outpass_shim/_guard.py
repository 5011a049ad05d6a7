"""What does not go through the gate: raw sockets, DNS of one's own, listening. Refused here unless the broker says yes.

Lives here: which calls are local and need no leave, and the refusal. May not live here: the decision, which is the broker's.
This is a courtesy with a reason in it, not the boundary: code that goes around `socket` meets the kernel jail.
"""

import _socket

from outpass_shim import EgressDenied, _boot, _session, _tunnel
from outpass_shim._registry import Any

_LOCAL_FAMILIES = frozenset(getattr(_socket, n, None) for n in ("AF_UNIX", "AF_NETLINK", "AF_ALG"))
_LOCAL_NAMES = frozenset(("", "localhost", "ip6-localhost", "ip6-loopback"))


def _text(host: object) -> str:
    return host.decode("utf-8", "replace") if isinstance(host, (bytes, bytearray)) else str(host)


def _packed(host: str) -> "bytes | None":
    """The address that the C library takes this for: 127.1, 0x7f000001 and 2130706433 are 127.0.0.1. None for a name."""
    try:
        return _socket.inet_pton(_socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        pass
    try:
        # inet_aton ignores what follows a blank; getaddrinfo does not.
        return None if host.split() != [host] else _socket.inet_aton(host)
    except (OSError, ValueError):
        return None


def _loopback(packed: bytes, wildcard: bool) -> bool:
    if len(packed) == 16:
        if packed[:12] != b"\0" * 10 + b"\xff\xff":
            return packed == b"\0" * 15 + b"\x01" or (wildcard and not any(packed))
        packed = packed[12:]
    return packed[0] == 127 or (wildcard and not any(packed))


def is_local(address: Any, wildcard: bool = True) -> bool:
    """Whether a socket address is this host's loopback or the gate. `wildcard`: 0.0.0.0 is, as a destination."""
    host = _text(address[0])
    if f"{host}:{address[1]}" == _boot.PROXY:
        return True
    packed = _packed(host)
    return host.lower() in _LOCAL_NAMES if packed is None else _loopback(packed, wildcard)


def _place(host: object, port: object) -> str:
    text = _text(host)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


_looked_up: "dict[str, str]" = {}
"""Address → the name that this process looked up to get it. Without a jail only: there, an address stands for its name."""
MAX_LOOKED_UP = 4096


def require(capability: str, destination: str, gate: bool = False, lasting: bool = False, name: str = "") -> str:
    """The kind of tunnel if the broker allows it. Raises EgressDenied with the broker's words. `gate`: the gate decides again."""
    chain, refusal, tunnel = _session.check(capability, destination, gate, lasting, name)
    refuse(capability, destination, chain, refusal)
    return tunnel


def refuse(capability: str, destination: str, chain: "tuple[str, ...]", refusal: "tuple[str, str] | None") -> None:
    """Raises EgressDenied for a refusal; returns without one."""
    if refusal is not None:
        denied = EgressDenied(13, refusal[1])
        denied.package, denied.chain, denied.reason = chain[0], chain, refusal[0]
        denied.capability, denied.destination = capability, destination
        raise denied


def _connecting(sock: Any, address: Any) -> Any:
    """The address to connect to for `address`; in a jail one that stands for it and for whoever is calling."""
    inet = sock.family in (_socket.AF_INET, _socket.AF_INET6) and isinstance(address, tuple) and len(address) > 1
    if not inet or sock.type & 0xF != _socket.SOCK_STREAM or not _tunnel.jailed():
        _to(sock, address)
        return address
    found = stand_in(address[0], address[1])
    return address if found is None else _tunnel.rewritten(sock.family, address, found)


def stand_in(place: object, port: Any) -> "str | None":
    """In a jail: the address to connect to, which stands for this place and for whoever is calling; None for what is local.

    Raises EgressDenied.
    """
    host = _text(place)
    if is_local((host, port)):
        if f"{host}:{port}" == _boot.PROXY or not _tunnel.forwarded(port):
            return None
        name = _tunnel.HOST
    else:
        name = _tunnel.meant(host)
        if name == host and _tunnel.synthetic(host):  # handed to this process by another one: the broker knows the name
            name = _tunnel.meant(_look_up(name, port))
    kind = require("network:socket", _place(name, port), True)
    found = _look_up(name, port)
    _tunnel.opening(found, port, kind)
    return found


def _connected(sock: Any, asked: Any, used: Any) -> None:
    """After a connection that leads through the gate: says whose it is, before anything is sent or the socket is closed."""
    if used is not asked:
        _tunnel.connected(sock, used)


def _look_up(name: str, port: object) -> str:
    """The address that stands for `name`. Raises EgressDenied."""
    chain, address, refusal = _tunnel.address_of(name, port)
    refuse("network:dns", _place(name, 53), chain, refusal)
    return address


def _to(sock: Any, address: Any) -> None:
    """A connection or a datagram from `sock` to `address`."""
    if sock.family in (_socket.AF_INET, _socket.AF_INET6):
        # Anything else than a tuple is the original's to complain about.
        if isinstance(address, tuple) and len(address) > 1 and not is_local(address):
            datagrams = sock.type & 0xF == _socket.SOCK_DGRAM
            name = _looked_up.get(_text(address[0]), "")
            require("network:socket", _place(address[0], address[1]), lasting=datagrams, name=name)
    elif sock.family not in _LOCAL_FAMILIES:
        require("network:socket", f"family-{sock.family}:0")


def patch(module: Any) -> None:
    """The module's socket class and resolver functions."""
    patch_class(module.socket)
    patch_resolver(module)


def patch_class(owner: Any) -> None:
    """connect, connect_ex, sendto, sendmsg and listen of a socket class: `socket`'s, or gevent's, which is no subclass of it."""
    raw_connect, raw_connect_ex = owner.connect, owner.connect_ex
    raw_sendto, raw_sendmsg, raw_listen = owner.sendto, owner.sendmsg, owner.listen

    def connect(self: Any, address: Any, /) -> None:
        to = _connecting(self, address)
        try:
            raw_connect(self, to)
        finally:  # BlockingIOError too: it is under way
            _connected(self, address, to)

    def connect_ex(self: Any, address: Any, /) -> int:
        to = _connecting(self, address)
        code: int = raw_connect_ex(self, to)
        _connected(self, address, to)
        return code

    def sendto(self: Any, *args: Any) -> int:
        if len(args) > 1:
            _to(self, args[-1])
        return raw_sendto(self, *args)  # type: ignore[no-any-return]

    def sendmsg(self: Any, *args: Any) -> int:
        if len(args) > 3 and args[3] is not None:
            _to(self, args[3])
        return raw_sendmsg(self, *args)  # type: ignore[no-any-return]

    def listen(self: Any, *backlog: int) -> None:
        if self.family in (_socket.AF_INET, _socket.AF_INET6):
            name = self.getsockname()
            if not is_local(name, wildcard=False):
                require("network:listen", _place(name[0], name[1]))
        raw_listen(self, *backlog)

    for function in (connect, connect_ex, sendto, sendmsg, listen):
        setattr(owner, function.__name__, function)


def _resolve(host: Any, literals: bool = True, port: object = 0) -> Any:
    """What to look up for `host`: itself, if it may be; in a jail an address that stands for it.

    Loopback, this machine's own name and (but for reverse look-ups) literal addresses need no query.
    """
    if host is None:
        return host
    name = _text(host)
    packed = _packed(name)
    if packed is not None:
        if literals or _loopback(packed, True) or (_tunnel.jailed() and _tunnel.synthetic(name)):
            return host
    elif name.lower().rstrip(".") in (*_LOCAL_NAMES, _socket.gethostname().lower(), _boot.PROXY.rpartition(":")[0]):
        return host
    elif _tunnel.jailed():
        return _look_up(name, port)
    require("network:dns", _place(name, 53))
    return host


def _remember(host: Any, found: "list[str]") -> None:
    """Which addresses a name led to: rules name hosts, and what is connected to is an address."""
    if host is None or _session.jailed or _packed(_text(host)) is not None:
        return
    if len(_looked_up) + len(found) > MAX_LOOKED_UP:
        _looked_up.clear()
    _looked_up.update(dict.fromkeys(found, _text(host)))


def patch_resolver(module: Any) -> None:
    """getaddrinfo, getnameinfo, gethostbyname, gethostbyname_ex and gethostbyaddr of a module."""

    def getaddrinfo(
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        if not flags & _socket.AI_NUMERICHOST:
            found = _resolve(host, port=port)
            if found is not host:
                host = "::ffff:" + found if family == _socket.AF_INET6 else found
                flags &= ~_socket.AI_ADDRCONFIG  # a jail has loopback only, and yet every address
        answer = original_getaddrinfo(host, port, family, type, proto, flags)
        _remember(host, [info[4][0] for info in answer])
        return answer

    def getnameinfo(sockaddr: Any, flags: int, /) -> Any:
        if not flags & _socket.NI_NUMERICHOST:
            _resolve(sockaddr[0], literals=False)
        return original_getnameinfo(sockaddr, flags)

    def by_name(name: str, literals: bool) -> None:
        original = getattr(module, name)

        def look_up(host: Any, /) -> Any:
            found = _resolve(host, literals)
            answer = original(found)
            if literals:
                _remember(host, answer[2] if name == "gethostbyname_ex" else [answer])
            return (host, [], answer[2]) if found is not host and name == "gethostbyname_ex" else answer

        look_up.__name__, look_up.__doc__ = name, original.__doc__
        setattr(module, name, look_up)

    original_getaddrinfo, original_getnameinfo = module.getaddrinfo, module.getnameinfo
    module.getaddrinfo, module.getnameinfo = getaddrinfo, getnameinfo
    by_name("gethostbyname", True)
    by_name("gethostbyname_ex", True)
    by_name("gethostbyaddr", False)
