"""Which CAs are trusted: by the gate for origins, and by programs for the gate.

Lives here: finding the operator's trust, reading PEM files, putting the two bundles together. May not live here: keys
(keys.py), verifying an origin (gate/).

Two bundles with one difference: programs also trust our CA, the gate never does, or a program could be pointed at a gate
by a gate.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from outpass.errors import StartError

SYSTEM: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)
MAX_BYTES: Final = 16 << 20
"""Largest bundle that is read; the common one has 200 KB."""

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"


def read_pem(path: Path, called: str) -> bytes:
    """The certificates in `path`, and nothing else in it (no key is ever copied). StartError says what `called` was."""
    try:
        info = path.stat()
        if stat.S_ISREG(info.st_mode) and info.st_size <= MAX_BYTES:
            content = path.read_bytes()
        else:
            raise StartError(f"{called} {path} is not a file of certificates", "name one PEM file")
    except OSError as e:
        raise StartError(f"cannot read {called} {path}: {e.strerror}", "name a PEM file that you can read") from None
    blocks = _certificates(content)
    if not blocks:
        raise StartError(f"{called} {path} holds no PEM certificate", "it should hold -----BEGIN CERTIFICATE-----")
    _check(blocks, called, path)
    return b"".join(blocks)


def _certificates(content: bytes) -> list[bytes]:
    blocks = []
    at = content.find(_BEGIN)
    while at >= 0:
        end = content.find(_END, at)
        if end < 0:
            break
        blocks.append(content[at : end + len(_END)].replace(b"\r\n", b"\n") + b"\n")
        at = content.find(_BEGIN, end)
    return blocks


def _check(blocks: list[bytes], called: str, path: Path) -> None:
    """Every block is a certificate to OpenSSL: a damaged bundle must not become a quietly smaller one.

    OpenSSL and not cryptography, which is stricter than what verifies here (it warns of serial numbers in system bundles).
    """
    if _loads(b"".join(blocks)):
        return
    number = next((n for n, block in enumerate(blocks, 1) if not _loads(block)), 0)
    raise StartError(f"{called} {path}: certificate {number} cannot be read", "is the file damaged or cut short?")


def _loads(pem: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return False
    return True


def operator_trust(env: Mapping[str, str], system: tuple[str, ...] = SYSTEM) -> tuple[bytes, list[str]]:
    """What the operator's own programs trust: (PEM, warnings).

    SSL_CERT_FILE replaces the system's store, as it does in OpenSSL; REQUESTS_CA_BUNDLE adds to it. A variable that
    names an unreadable file is an error, not a fallback: whoever set it meant it. Directories are not followed.
    """
    parts: list[bytes] = []
    warnings: list[str] = []
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        value = env.get(name)
        if not value:
            continue
        if os.path.isdir(value):
            warnings.append(f"{name} names a directory; only files are taken")
            continue
        parts.append(read_pem(Path(value), f"${name}"))
    if not env.get("SSL_CERT_FILE"):
        parts.insert(0, _system(system))
    return b"".join(parts), warnings


def _system(candidates: tuple[str, ...]) -> bytes:
    for candidate in candidates:
        if os.path.isfile(candidate):
            return read_pem(Path(candidate), "the system's CA bundle")
    try:
        import certifi  # present with mitmproxy; only where the system has no bundle of its own
    except ImportError:
        raise StartError("no CA bundle was found on this system", "install ca-certificates, or set SSL_CERT_FILE") from None
    return read_pem(Path(certifi.where()), "certifi's CA bundle")
