"""The gate's own certificates: leaves for intercepted names, signed by the broker's CA, in memory only.

Lives here: minting and keeping leaves, and the engine's TLS hooks with them. May not live here: making the CA (broker/),
what is trusted upstream (trust.py), any file.

The engine's own store writes an RSA CA key to the home directory, signs with it, and uses the CA's key as every leaf's key.
Here the CA key signs, one P-256 key made at start does every handshake, and neither is ever written anywhere.
"""

from __future__ import annotations

import datetime
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from mitmproxy import certs, tls
from mitmproxy.addons import tlsconfig
from mitmproxy.connection import Connection, Server
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.context import Context
from OpenSSL import SSL

from outpass.errors import StartError
from outpass.gate.engine.options import CIPHERS
from outpass.gate.sessions import Contexts, Party, Sessions

MAX_LEAVES: Final = 1000
LIFE: Final = datetime.timedelta(hours=24)
_RENEW_BEFORE: Final = datetime.timedelta(hours=1)
_BACKDATE: Final = datetime.timedelta(hours=1)
"""For clients whose clock is behind."""

_ON_DISK: Final = frozenset(("certs", "confdir", "key_size", "cert_passphrase"))
"""Options by which the engine reads or writes its own CA."""

Clock = Callable[[], datetime.datetime]


class Leaf(certs.CertStoreEntry):
    """A certificate with its key, as the engine's TLS hook wants it."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, ca: certs.Cert) -> None:
        # The engine types the key as RSA but only hands it to OpenSSL.
        super().__init__(certs.Cert(certificate), key, None, [ca])  # type: ignore[arg-type]


class LeafStore:
    """Leaves by name, least recently used first out."""

    dhparams = None
    """Read by the engine; our ciphers are all elliptic-curve."""

    def __init__(self, ca_key: str, ca_cert: str, clock: Clock) -> None:
        """`ca_key` and `ca_cert` are PEM. Raises StartError when they cannot be read or do not fit together."""
        try:
            key = serialization.load_pem_private_key(ca_key.encode(), None)
            self._ca = x509.load_pem_x509_certificate(ca_cert.encode())
        except (ValueError, TypeError) as e:
            raise StartError(f"the gate cannot read its CA: {e}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._ca.public_key():
            raise StartError("the gate's CA key is not an elliptic-curve key, or not that of its certificate")
        self._key = key
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._clock = clock
        self._leaves: OrderedDict[str, tuple[Leaf, datetime.datetime, datetime.datetime]] = OrderedDict()
        self._ski = self._ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value

    def renew(self, ca_cert: str) -> None:
        """Sign under another certificate (PEM) of the same key from now on. Raises StartError for another key's."""
        renewed = x509.load_pem_x509_certificate(ca_cert.encode())
        if renewed.public_key() != self._ca.public_key():
            raise StartError("the CA's new certificate is of another key")
        self._ca = renewed
        self._leaves.clear()

    def leaf(self, name: str) -> Leaf:
        """The certificate for one canonical host; its only subject alternative name is that host."""
        found = self._leaves.get(name)
        now = self._clock()
        if found is not None and found[1] <= now < found[2]:  # the clock may also be set back
            self._leaves.move_to_end(name)
            return found[0]
        end = now + LIFE
        leaf = Leaf(self._sign(name, now - _BACKDATE, end), self._leaf_key, certs.Cert(self._ca))
        self._leaves[name] = (leaf, now - _BACKDATE, end - _RENEW_BEFORE)
        while len(self._leaves) > MAX_LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def _sign(self, name: str, start: datetime.datetime, end: datetime.datetime) -> x509.Certificate:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._ski)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._ca.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(min(end, self._ca.not_valid_after_utc))
            # RFC 5280, section 4.2.1.6: critical, because the subject is empty.
            .add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )


class GateTls(tlsconfig.TlsConfig):
    """[C1] The engine's TLS hooks, over a LeafStore: no confdir, no CRL responder, no name but the one asked for.

    [C3] Stock makes every handshake from nothing: it reads certificate and key anew, parses the origin's chain for a display,
    and never resumes with an origin; its clients' tickets are good for everybody.
    """

    def __init__(self, store: LeafStore, name_for: Callable[[Context], str], party_for: Callable[[Context], Party]) -> None:
        """`name_for` gives the canonical host that the client of a context expects to see in the certificate; `party_for` who
        that client is, for what is kept of its handshakes."""
        self.certstore = store  # type: ignore[assignment]
        self.renew = store.renew
        self._leaf = store.leaf
        self._name_for = name_for
        self._party_for = party_for
        self._contexts = Contexts(CIPHERS)
        self._sessions = Sessions(time.monotonic)
        self._open: dict[Connection, tuple[Hashable, SSL.Connection, float]] = {}
        """Connections to origins: where their session belongs, and when the certificate was checked."""

    def tls_start_client(self, tls_start: tls.TlsData) -> None:
        """Begin a handshake with a client."""
        context = tls_start.context
        name = self._name_for(context)
        made = SSL.Connection(self._contexts.get(self._party_for(context), name, self._leaf(name)))
        made.set_app_data(tlsconfig.AppData(client_alpn=context.client.alpn, server_alpn=context.server.alpn, http2=True))
        made.set_accept_state()
        tls_start.ssl_conn = _unread(made)

    def tls_start_server(self, tls_start: tls.TlsData) -> None:
        """Begin a handshake with an origin: its certificate is checked by OpenSSL, against our trust and its name."""
        super().tls_start_server(tls_start)
        made, origin = tls_start.ssl_conn, tls_start.conn
        if made is None or not isinstance(origin, Server):
            return
        key = (self._party_for(tls_start.context), origin.address, origin.sni, tuple(origin.alpn_offers))
        known = self._sessions.take(key)
        if known is not None:
            made.set_session(known[0])
        self._open[origin] = key, made, time.monotonic() if known is None else known[1]
        tls_start.ssl_conn = _unread(made)

    def server_disconnected(self, origin: Connection) -> None:
        """Keep what an origin offered for the next time."""
        key, made, checked = self._open.pop(origin, (None, None, 0.0))
        if made is None or not origin.tls_established:
            return
        session = made.get_session()
        if session is not None:
            self._sessions.keep(key, session, checked if resumed(made) else time.monotonic())

    def configure(self, updated: Iterable[str]) -> None:
        """As the engine, minus everything that touches the disk."""
        super().configure(set(updated) - _ON_DISK)  # type: ignore[no-untyped-call]

    def running(self) -> None:
        """Nothing: the engine would create its configuration directory here."""

    def request(self, flow: HTTPFlow) -> None:
        """Nothing: the engine would answer a magic path on every host with a CRL of its CA."""

    def get_cert(self, conn_context: Context) -> certs.CertStoreEntry:
        """The leaf for the client's connection. The engine would add the origin's names and our own address."""
        return self._leaf(self._name_for(conn_context))


def resumed(made: SSL.Connection) -> bool:
    """Whether the other side took the session that we offered."""
    return bool(SSL._lib.SSL_session_reused(made._ssl))  # type: ignore[attr-defined]


def _unread(made: SSL.Connection) -> SSL.Connection:
    """Nobody looks at the peer's chain after OpenSSL has checked it; the engine parses all of it."""
    made.get_peer_cert_chain = lambda **_: None  # type: ignore[method-assign]
    return made


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
