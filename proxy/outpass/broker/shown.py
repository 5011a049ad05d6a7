"""The system's trust as a jail shows it, for programs that no variable tells: a directory of certificates, and Java's store.

Lives here: making both, once a daemon, from public certificates only. May not live here: which CAs are trusted (trust.py),
showing it (jail/). Runs in a thread of its own while the gate starts; nothing here is needed before the first jail.

The directory is a copy, not a bind of the real one with our CA in it: only the superuser could add to that, and an overlay
keeps root's files closed to an ordinary user's jail. Java gets PKCS #12 without encryption: every Java since 8u301 reads that
with no option at all, and takes an encrypted one for empty, silently.
"""

from __future__ import annotations

import os
import shutil
import stat
import warnings
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

SYSTEM: Final = Path("/etc/ssl/certs")
BUNDLES: Final = ("ca-certificates.crt", "ca-bundle.crt")
"""Debian's name and Red Hat's; the first is always there."""
OURS: Final = "outpass.pem"
JAVA: Final = "java/cacerts"
MAX_FILES: Final = 4096
MAX_BYTES: Final = 16 << 20
"""Of one file: the whole bundle has a quarter of a megabyte."""

_PRIVATE: Final = b"PRIVATE KEY-----"
_SEPARATOR: Final = b"-----END CERTIFICATE-----\n"


class Shown(NamedTuple):
    """Absolute paths; empty where there is none. `problems`: one line for each thing that was left out."""

    certs: str
    java: str
    problems: tuple[str, ...] = ()


def make(where: Path, bundle: bytes, ours: bytes, system: Path = SYSTEM) -> Shown:
    """Both below `where`, which is emptied first. `bundle`: PEM of all that programs trust, with `ours`. Never raises OSError."""
    problems: list[str] = []
    certs = where / "certs"
    try:
        shutil.rmtree(where, ignore_errors=True)
        _folder(where)
        java = _java(where / "cacerts", bundle, problems)
        _folder(certs)
        _copy(system, certs, problems)
        _add(certs, bundle, ours, java)
    except OSError as bad:
        problems.append(f"the system's certificates cannot be shown in jails, only the bundle: {bad.strerror or bad}")
        return Shown("", "", tuple(problems))
    return Shown(str(certs), str(where / "cacerts") if java else "", tuple(problems))


def _folder(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)  # the daemon's umask is 077; a jail's root may become another user inside


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)


def _copy(system: Path, target: Path, problems: list[str]) -> None:
    """Every file, links followed, and links within the directory as links. Other directories are left out."""
    try:
        entries = sorted(os.scandir(system), key=lambda e: e.name)[:MAX_FILES]
    except OSError:  # RHEL's layout, or none: the bundle and our CA are what there is
        return
    inside = {entry.name for entry in entries}
    for entry in entries:
        try:
            if entry.is_symlink() and (to := os.readlink(entry.path)) in inside and os.path.isfile(entry.path):
                os.symlink(to, target / entry.name)
            elif stat.S_ISREG((info := entry.stat()).st_mode) and info.st_size <= MAX_BYTES:
                content = Path(entry.path).read_bytes()
                if _PRIVATE not in content:
                    _write(target / entry.name, content)
        except PermissionError:
            pass  # not ours to read, so not CMD's
        except OSError as bad:
            problems.append(f"{entry.path} is left out of the jails' certificates: {bad.strerror}")


def _add(certs: Path, bundle: bytes, ours: bytes, java: bytes | None) -> None:
    for name in BUNDLES:
        if name == BUNDLES[0] or os.path.lexists(certs / name):
            _write(certs / name, bundle)
    _write(certs / OURS, ours)
    found = subject_hash(x509.load_pem_x509_certificate(ours))
    number = next(n for n in range(MAX_FILES) if not os.path.lexists(certs / f"{found}.{n}"))
    os.symlink(OURS, certs / f"{found}.{number}")
    if java is not None:
        _folder(certs / "java")
        _write(certs / JAVA, java)


def subject_hash(certificate: x509.Certificate) -> str:
    """What OpenSSL looks a CA up by in a directory, as `openssl x509 -hash` prints it (X509_NAME_hash, since 1.0.0).

    SHA-1 over the name in canonical form: every text UTF-8, lower case, white space collapsed, without the outer SEQUENCE.
    It finds a file and vouches for nothing, so SHA-1 is no weakness here. Right for names of text attributes only, as ours is.
    """
    canonical = x509.Name(
        x509.RelativeDistinguishedName(
            x509.NameAttribute(attribute.oid, " ".join(str(attribute.value).split()).lower()) for attribute in rdn
        )
        for rdn in certificate.subject.rdns
    ).public_bytes()
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303
    digest.update(canonical[_header(canonical) :])
    return f"{int.from_bytes(digest.finalize()[:4], 'little'):08x}"


def _header(der: bytes) -> int:
    """Bytes of a DER header (X.690, 8.1)."""
    return 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)


def _java(path: Path, bundle: bytes, problems: list[str]) -> bytes | None:
    """The store, written to `path`; None where this cryptography cannot make one."""
    make = getattr(pkcs12, "serialize_java_truststore", None)
    if make is None:
        problems.append("Java keeps its own trust store in jails: this cryptography has no serialize_java_truststore (45 has)")
        return None
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old roots have serial numbers that are not quite right
        for number, block in enumerate(bundle.split(_SEPARATOR)):
            if not block.strip():
                continue
            try:
                certificate = x509.load_pem_x509_certificate(block + _SEPARATOR)
            except ValueError:  # stricter than OpenSSL, which did read it
                continue
            found.append(pkcs12.PKCS12Certificate(certificate, f"ca-{number}".encode()))
        try:
            store: bytes = make(found, NoEncryption())
        except (ValueError, TypeError) as bad:
            problems.append(f"Java keeps its own trust store in jails: {bad}")
            return None
    _write(path, store)
    return store
