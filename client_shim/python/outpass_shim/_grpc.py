"""gRPC's C core: its channels go through the gate with a pass of whoever made them, calls of anybody else with one of their own.

Lives here: channel options, call metadata, trust. May not live here: servers.

The core lets channels share a connection only where their options are equal, and the pass is one of them (1.51 and 1.85, a test).
A call by the chain that made the channel carries no pass: the core repeats a call that the server did not take (GOAWAY), with the
same metadata, and a pass is good once.
"""

import sys
from binascii import b2a_base64

from outpass_shim import _boot, _guard, _lent, _session, _tunnel
from outpass_shim._chain import principals
from outpass_shim._http import TOKEN_HEADER, for_tunnel
from outpass_shim._registry import Any

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_OWN_WAY = ("grpc.enable_http_proxy", "grpc.http_proxy", "grpc.http_connect_headers")
"""Channel options that lead elsewhere."""


def patch(module: Any) -> None:
    """grpc._channel and grpc.aio._channel: Channel, and the callables that its methods make."""
    channel = module.Channel
    original = channel.__init__

    def __init__(self: Any, target: Any, options: Any, credentials: Any, *args: Any, **kwargs: Any) -> None:
        self._outpass, options = _hold(target, options, credentials is not None)
        original(self, target, options, credentials, *args, **kwargs)

    channel.__init__ = __init__
    for name in _KINDS:
        _wrap_maker(channel, name)
    for name, callable_class in list(vars(module).items()):
        if name.endswith("MultiCallable") and isinstance(callable_class, type):
            for call in ("__call__", "with_call", "future"):
                if call in vars(callable_class):
                    _wrap_call(callable_class, call)


def patch_trust(module: Any) -> None:
    """grpc.ssl_channel_credentials: the outpass CA beside the roots that the program names."""
    original = module.ssl_channel_credentials

    def ssl_channel_credentials(root_certificates: Any = None, *args: Any, **kwargs: Any) -> Any:
        if root_certificates is not None and _boot.CA:
            with open(_boot.CA, "rb") as file:
                root_certificates = bytes(root_certificates) + b"\n" + file.read()
        return original(root_certificates, *args, **kwargs)

    module.ssl_channel_credentials = ssl_channel_credentials


def _destination(target: Any, tls: bool) -> "str | None":
    """`host:port` of a channel's target; None for one that is not on the network, or that this host is."""
    text = target.decode() if isinstance(target, bytes) else str(target)
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("unix", "unix-abstract", "xds", "vsock", "google-c2p"):
        return None
    if colon and scheme in ("dns", "ipv4", "ipv6", "passthrough"):
        text = rest.rpartition("/")[2]
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        host, port = text, "443"
    host = host.strip("[]")
    return None if _guard.is_local((host, port)) else _tunnel.authority(host, int(port))


def _hold(target: Any, options: Any, tls: bool) -> "tuple[tuple[tuple[str, ...], str, str] | None, Any]":
    """((chain, authority, kind of tunnel), options) for a channel; None where it does not go through the gate."""
    place = _destination(target, tls)
    found = None if place is None or not _boot.PROXY else _lent.lent()
    told = None if found is None or place is None else _session.mint("connect", place, tls)
    if found is None or told is None or place is None:
        return None, options
    basic = b2a_base64(f"{found[1]}:x".encode(), newline=False).decode()
    kept = [option for option in options or () if option[0] not in _OWN_WAY]
    header = ("grpc.http_connect_headers", f"Proxy-Authorization: Basic {basic}")
    return (found[0], place, told[1]), [*kept, header]


def _wrap_maker(channel: Any, name: str) -> None:
    original = getattr(channel, name)

    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(self, *args, **kwargs)
        made._outpass = self._outpass
        return made

    make.__name__, make.__doc__ = name, original.__doc__
    setattr(channel, name, make)


def _wrap_call(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        held = getattr(self, "_outpass", None)
        if held is not None and held[2] == "http" and principals(sys._getframe(1)) != held[0]:
            token = for_tunnel(held[1], True, held[2])
            if token is not None:
                at = len(args) > 2  # (request, timeout, metadata, …)
                given = (args[2] if at else kwargs.get("metadata")) or ()
                metadata = (*given, (TOKEN_HEADER.lower(), token))
                if at:
                    args = (*args[:2], metadata, *args[3:])
                else:
                    kwargs["metadata"] = metadata
        return original(self, *args, **kwargs)

    call.__name__, call.__doc__ = name, original.__doc__
    setattr(owner, name, call)
