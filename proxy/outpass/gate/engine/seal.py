"""TLS of a connection whose handshake is over, at the handler's side of the engine's layers instead of inside them.

Lives here: deciphering and enciphering with the engine's OpenSSL object, and when a TLS layer may be left out. May not live
here: handshakes (the engine's layers do them, with our certificates and checks), sockets.

In the engine every byte of a tunnel climbs through the layers of the CONNECT, both TLS layers and back: half of its CPU for a
request inside TLS. Once a handshake is over these layers only decipher and pass on, so the handler does that, and speaks to
the HTTP layer inside directly. What a layer did with close_notify, errors and half-closes is kept, and tested.
"""

from __future__ import annotations

from typing import Any, Final

from mitmproxy.proxy import layer
from mitmproxy.proxy.layers import tls as engine_tls
from mitmproxy.proxy.layers.http import HttpClient, HttpLayer
from mitmproxy.proxy.tunnel import TunnelState
from mitmproxy.tls import TlsData
from OpenSSL import SSL

_lib: Any = SSL._lib  # type: ignore[attr-defined]
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]
_SIZE: Final = 1 << 18
_SCRATCH: Final = _ffi.new("char[]", _SIZE)
"""One buffer for every connection: it is filled and copied out of within one call."""

ESTABLISHED: Final = frozenset({engine_tls.TlsEstablishedClientHook.name, engine_tls.TlsEstablishedServerHook.name})
"""Names of the hooks after which a layer may be left out."""


class Seal:
    """Deciphers what comes and enciphers what goes. pyOpenSSL would raise an exception for each "nothing more yet"."""

    def __init__(self, tls: SSL.Connection) -> None:
        self._tls = tls  # keeps the pointers below alive
        self._ssl: Any = tls._ssl
        self._into: Any = tls._into_ssl
        self._out_of: Any = tls._from_ssl

    def decipher(self, data: bytes) -> tuple[bytes, bool]:
        """The plain text in `data`, and whether the peer says with it that no more comes (close_notify)."""
        _lib.BIO_write(self._into, data, len(data))
        parts: list[bytes] = []
        closed = False
        while True:
            count = _lib.SSL_read(self._ssl, _SCRATCH, _SIZE)
            if count > 0:
                parts.append(_ffi.buffer(_SCRATCH, count)[:])
                continue
            error = _lib.SSL_get_error(self._ssl, count)
            if error == _lib.SSL_ERROR_ZERO_RETURN:
                closed = True
            elif error != _lib.SSL_ERROR_WANT_READ:
                _lib.ERR_clear_error()  # an alert, or bytes that are no record: as the engine, wait for the peer to hang up
            break
        return (parts[0] if len(parts) == 1 else b"".join(parts)), closed

    def encipher(self, data: bytes) -> bytes:
        """`data` in records, after whatever TLS itself has to say; nothing when the session is broken."""
        with _ffi.from_buffer(data) as start:
            sent, size = 0, len(data)
            while sent < size:  # pyOpenSSL asks for partial writes: a call may stop after any record
                count = _lib.SSL_write(self._ssl, start + sent, size - sent)
                if count <= 0:
                    _lib.ERR_clear_error()
                    break
                sent += count
        return self.waiting()

    def waiting(self) -> bytes:
        """What TLS itself has to say: alerts, key updates."""
        parts: list[bytes] = []
        while (count := _lib.BIO_read(self._out_of, _SCRATCH, _SIZE)) > 0:
            parts.append(_ffi.buffer(_SCRATCH, count)[:])
            if count < _SIZE:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def peer_closed(self) -> bool:
        """Whether a close_notify came."""
        return bool(_lib.SSL_get_shutdown(self._ssl) & SSL.RECEIVED_SHUTDOWN)


def inner_layer(data: TlsData) -> layer.Layer | None:
    """The layer inside the TLS layer of `data`, once that one does nothing but decipher; None while it is still needed.

    From then on events go to the inner layer, whoever sends them to the TLS layer, and its commands are plain text.
    """
    stack = data.context.layers
    outer = next((i for i, one in enumerate(stack) if isinstance(one, engine_tls.TLSLayer) and one.tls is data.ssl_conn), None)
    if outer is None:
        return None
    tls: Any = stack[outer]
    if tls.tunnel_state is not TunnelState.OPEN or tls._paused or tls._event_queue or tls.command_to_reply_to:
        return None
    inner = _through(tls.child_layer)
    if inner is None or (tls.conn is data.context.client and any(one._paused for one in stack[:outer])):
        return None
    tls.handle_event = inner.handle_event
    return inner


def _through(found: Any) -> layer.Layer | None:
    """`found`, or what stands behind it where it only passes on; None while that is not decided."""
    if isinstance(found, layer.NextLayer):
        if found._paused or found.events or not isinstance(found.layer, HttpLayer):
            return None
        return found.layer
    if isinstance(found, HttpClient):
        child: layer.Layer | None = getattr(found, "child_layer", None)
        return None if found._paused or found._paused_event_queue else child
    return None
