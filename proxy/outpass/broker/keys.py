"""What the daemon vouches with: the keys that sign passes and the CA that signs the gate's leaves.

Lives here: making them, at start, from the system's randomness, and taking over those of the daemon before. May not live here:
files (rundir.py, journal.py), the bundles that a certificate is put into (trust.py), signing a pass (passes/).

Passes that are good once are signed with a key that is made at each start and stays in memory: what the daemon before burned,
or did not, is void. Spawn passes and leaves must outlive it, as they are in the environments and memories of running programs;
their keys are in the journal of a daemon that others may follow, while it has open jails.
"""

from __future__ import annotations

import base64
import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE: Final = datetime.timedelta(days=366)
"""Of one certificate of the CA. The key lives as long as the daemon, or its jails, and the certificate is worth nothing without
it; but programs read the certificate once, and may run for months with what they read."""
SKEW: Final = datetime.timedelta(hours=1)
"""How far back certificates begin: containers and suspended laptops have late clocks."""
KEY_BYTES: Final = 32
"""RFC 7518, section 3.2: at least the size of the hash."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Everything the daemon signs with. Its repr shows no secret."""

    daemon: str
    """Eight hex digits that name this daemon, and those that go on where it ended."""
    kid: str
    """Names `key` in a pass's header."""
    key: bytes = field(repr=False)
    """HS256, shared with the gate over the control socket."""
    spawn_kid: str
    """Names `spawn_key` in a spawn pass's header."""
    spawn_key: bytes = field(repr=False)
    """The same for spawn passes alone."""
    ca_key: str = field(repr=False)
    """PKCS #8 PEM, unencrypted: it only ever crosses the control socket."""
    ca_cert: str
    """PEM."""
    ca_expires: datetime.datetime

    def due(self, now: datetime.datetime) -> bool:
        """Whether the certificate must be renewed: half of its life is over, or the clock was set back to before it began."""
        left = self.ca_expires - now
        return left < CA_LIFE / 2 or left > CA_LIFE + SKEW / 2

    @property
    def iss(self) -> str:
        """The issuer claim."""
        return f"outpass:{self.daemon}"

    def both(self) -> dict[str, str]:
        """Name → key, as the gate's start message carries them (RFC 4648, section 4)."""
        return {kid: base64.b64encode(key).decode() for kid, key in ((self.kid, self.key), (self.spawn_kid, self.spawn_key))}

    def kept(self) -> dict[str, str]:
        """What the next daemon goes on with; `again` reads it."""
        return {
            "daemon": self.daemon,
            "spawn_kid": self.spawn_kid,
            "spawn_key": base64.b64encode(self.spawn_key).decode(),
            "ca_key": self.ca_key,
            "ca_cert": self.ca_cert,
        }


def make(now: datetime.datetime) -> Keys:
    """New keys, valid from `now` (aware). Takes about a millisecond."""
    daemon = os.urandom(4).hex()
    private = ec.generate_private_key(ec.SECP256R1())
    certificate = _authority(private, f"outpass {daemon}", now)
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Keys(
        daemon=daemon,
        kid=f"k-{os.urandom(4).hex()}",
        key=os.urandom(KEY_BYTES),
        spawn_kid=f"k-{os.urandom(4).hex()}",
        spawn_key=os.urandom(KEY_BYTES),
        ca_key=pem.decode(),
        ca_cert=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        ca_expires=certificate.not_valid_after_utc,
    )


def again(kept: Mapping[str, str]) -> Keys:
    """The keys that a daemon before left (`Keys.kept`), with a new one for what is good once. Raises ValueError or KeyError."""
    spawn_key = base64.b64decode(kept["spawn_key"], validate=True)
    certificate = x509.load_pem_x509_certificate(kept["ca_cert"].encode())
    private = serialization.load_pem_private_key(kept["ca_key"].encode(), None)
    if len(spawn_key) != KEY_BYTES or private.public_key() != certificate.public_key():
        raise ValueError("the keys do not belong together")
    return Keys(
        daemon=kept["daemon"],
        kid=f"k-{os.urandom(4).hex()}",
        key=os.urandom(KEY_BYTES),
        spawn_kid=kept["spawn_kid"],
        spawn_key=spawn_key,
        ca_key=kept["ca_key"],
        ca_cert=kept["ca_cert"],
        ca_expires=certificate.not_valid_after_utc,
    )


def renewed(keys: Keys, now: datetime.datetime) -> Keys:
    """The same keys and the same name in a certificate that is valid from `now`.

    A leaf of either certificate's time verifies with both, so that a program which trusts the one before notices nothing until
    that one expires.
    """
    private = serialization.load_pem_private_key(keys.ca_key.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    made = _authority(private, f"outpass {keys.daemon}", now)
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    return replace(keys, ca_cert=pem, ca_expires=made.not_valid_after_utc)


def _authority(private: ec.EllipticCurvePrivateKey, name: str, now: datetime.datetime) -> x509.Certificate:
    """A self-signed CA (RFC 5280, section 4.2) that can sign server leaves and nothing below them.

    No name constraints: which hosts it signs for is the policy's question, and it changes on reload. Constraints are
    also what breaks in practice (LibreSSL, Go and NSS differ on them).
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    public = private.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        # Python 3.13 turns VERIFY_X509_STRICT on, which wants an authority key identifier even here.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(private, hashes.SHA256())
    )
