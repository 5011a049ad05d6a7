"""TLS that need not be set up from nothing again: contexts for clients, sessions of origins.

Lives here: who may resume what, how many are kept and for how long. May not live here: certificates (ca.py), handshakes.

A session holds no right: every tunnel is decided by its own CONNECT and every request by its own pass. Still nothing is ever
shared between jails, between processes or between chains of packages (a `Party`): to a client of another party the gate's tickets
are noise, because each party has ticket keys of its own (an OpenSSL context), and to an origin two parties are two clients.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from mitmproxy import certs
from mitmproxy.addons.tlsconfig import alpn_select_callback
from mitmproxy.net import tls as net_tls
from OpenSSL import SSL

Party = Hashable
"""Who asks: jail, session of the process, chain of packages."""

MAX_CONTEXTS: Final = 256
"""Contexts for clients, one for each party and name; each is some 20 kB."""
MAX_SESSIONS: Final = 1024
"""Sessions of origins."""
SESSION_S: Final = 600.0
"""Seconds for which the certificate of an origin counts as checked: resuming does not show it again (RFC 8446, section 2.2)."""


class Contexts:
    """OpenSSL contexts for handshakes with clients, least recently used first out."""

    def __init__(self, ciphers: str) -> None:
        """`ciphers` in OpenSSL's syntax."""
        self._ciphers = tuple(ciphers.split(":"))
        self._kept: OrderedDict[tuple[Party, str], tuple[certs.CertStoreEntry, SSL.Context]] = OrderedDict()

    def get(self, party: Party, name: str, leaf: certs.CertStoreEntry) -> SSL.Context:
        """The context with `leaf` for a party that asks for `name`; another one when the leaf was renewed."""
        key = (party, name)
        found = self._kept.get(key)
        if found is not None and found[0] is leaf:
            self._kept.move_to_end(key)
            return found[1]
        made = self._make(key, leaf)
        self._kept[key] = leaf, made
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_CONTEXTS:
            self._kept.popitem(last=False)
        return made

    def _make(self, key: tuple[Party, str], leaf: certs.CertStoreEntry) -> SSL.Context:
        context = net_tls._create_ssl_context(
            method=net_tls.Method.TLS_SERVER_METHOD,
            min_version=net_tls.DEFAULT_MIN_VERSION,
            max_version=net_tls.DEFAULT_MAX_VERSION,
            cipher_list=self._ciphers,
            ecdh_curve=None,
        )
        context.set_verify(SSL.VERIFY_NONE, None)
        context.set_alpn_select_callback(alpn_select_callback)
        # RFC 8446, section 4.6.1, and OpenSSL's own check besides the ticket key: a session belongs to one context.
        context.set_session_id(hashlib.sha256(repr(key).encode()).digest())
        context.use_certificate(leaf.cert.to_cryptography())
        context.use_privatekey(leaf.privatekey)
        return context


class Sessions:
    """Sessions that origins offered, each used once (RFC 8446, appendix C.4), least recently stored first out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds, and never goes back."""
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[SSL.Session, float]] = OrderedDict()

    def take(self, key: Hashable) -> tuple[SSL.Session, float] | None:
        """The session for `key`, and when its certificate was checked; it is not given out again."""
        found = self._kept.pop(key, None)
        return found if found is not None and self._clock() < found[1] + SESSION_S else None

    def keep(self, key: Hashable, session: SSL.Session, checked: float) -> None:
        """Keep a session whose origin's certificate was checked at `checked`."""
        self._kept[key] = session, checked
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_SESSIONS:
            self._kept.popitem(last=False)
