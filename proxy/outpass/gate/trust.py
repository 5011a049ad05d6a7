"""Which certificate authorities the gate trusts when it dials an origin.

Lives here: the system's trust and the operator's bundle, as one file that the engine can load. May not live here: our CA.

The engine's option for a bundle replaces its default, so the two are joined here, in anonymous memory.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

import certifi

from outpass.errors import StartError

_SYSTEM: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)


def system_bundle() -> str:
    """The file with the machine's own authorities ($SSL_CERT_FILE first); certifi's where the machine has none."""
    named = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    for candidate in (named, *_SYSTEM):
        if candidate and Path(candidate).is_file() and Path(candidate).stat().st_size:
            return candidate
    return certifi.where()


def joined(extra: str | None, system: str | None = None) -> tuple[int, str]:
    """A descriptor of anonymous memory with the system's authorities and those in the PEM file `extra`, and its path.

    The descriptor must stay open as long as the path is used. Raises StartError when `extra` cannot be read or holds none.
    """
    pem = Path(system or system_bundle()).read_bytes()
    if extra is not None:
        try:
            own = Path(extra).read_bytes()
        except OSError as e:
            raise StartError(f"cannot read the upstream CA {extra}: {e.strerror}") from None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=own.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise StartError(f"the upstream CA {extra} holds no certificate", "it must be a PEM file") from None
        pem += b"\n" + own
    descriptor = os.memfd_create("outpass-trust", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as memory:
        memory.write(pem)
    return descriptor, f"/proc/self/fd/{descriptor}"
