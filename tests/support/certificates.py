"""Certificates as they should not be, from a CA of one's own, and TLS servers that present them and count what they are sent.

Lives here: making them and serving them. May not live here: what should come of it.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto

from tests.support.accepting import Accepting

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def key() -> ec.EllipticCurvePrivateKey:
    """A good key."""
    return ec.generate_private_key(ec.SECP256R1())


def name(text: str) -> x509.Name:
    """A common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """A CA certificate and its key; `parent=None` signs itself."""

    subject: str
    parent: Authority | None = None
    constraints: x509.NameConstraints | None = None
    is_ca: bool = True
    key: Any = field(default_factory=key)

    def __post_init__(self) -> None:
        parent = self.parent or self
        builder = _dated(x509.CertificateBuilder(), self.subject, parent.subject, self.key)
        builder = builder.add_extension(x509.BasicConstraints(self.is_ca, None), critical=True)
        if self.constraints is not None:
            builder = builder.add_extension(self.constraints, critical=True)
        self.certificate = builder.sign(parent.key, hashes.SHA256())

    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def _dated(
    builder: x509.CertificateBuilder, subject: str, issuer: str, public: Any, days: tuple[int, int] = (-1, 30)
) -> x509.CertificateBuilder:
    return (
        builder.subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
    )


@dataclass
class Leaf:
    """A server certificate; the defaults are good."""

    issuer: Authority | None
    """None: it signs itself."""
    names: Sequence[str] = ()
    addresses: Sequence[str] = ()
    days: tuple[int, int] = (-1, 30)
    subject: str = "leaf"
    key: Any = field(default_factory=key)
    sha1: bool = False
    """Signed with SHA-1."""
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
    chain: Sequence[Authority] = ()
    """What is sent behind it."""
    extensions: Sequence[x509.ExtensionType] = ()

    def pem(self) -> bytes:
        """Key, certificate and chain."""
        issuer = self.issuer
        builder = _dated(x509.CertificateBuilder(), self.subject, issuer.subject if issuer else self.subject, self.key, self.days)
        alternatives: list[x509.GeneralName] = [x509.DNSName(n) for n in self.names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(a)) for a in self.addresses]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([self.usage]), critical=False)
        for extension in self.extensions:
            builder = builder.add_extension(extension, critical=False)
        signer = issuer.key if issuer else self.key
        made = builder.sign(signer, hashes.SHA256())
        if self.sha1:  # which cryptography does not do any more
            old = crypto.X509.from_cryptography(made)
            old.sign(crypto.PKey.from_cryptography_key(signer), "sha1")
            made = old.to_cryptography()
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private + made.public_bytes(serialization.Encoding.PEM) + b"".join(c.pem() for c in self.chain)


def short_rsa() -> rsa.RSAPrivateKey:
    """A key that is too short."""
    return rsa.generate_private_key(65537, 1024)


class TlsServer(Accepting):
    """`with TlsServer(leaf) as server:`; `server.got` is every byte that was sent to it inside TLS."""

    def __init__(self, leaf: Leaf, adjust: Callable[[ssl.SSLContext], None] = lambda _: None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_ciphers("ALL:@SECLEVEL=0")
        adjust(self._context)
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(leaf.pem())
            self._context.load_cert_chain(file.name)
        self.got = b""
        super().__init__(self._serve)

    def _serve(self, plain: socket.socket) -> None:
        try:
            plain.settimeout(30)
            with self._context.wrap_socket(plain, server_side=True) as sock:
                while data := sock.recv(65_536):
                    self.got += data
                    if b"\r\n\r\n" in data:
                        sock.sendall(OK)
        except (OSError, ssl.SSLError):
            plain.close()
