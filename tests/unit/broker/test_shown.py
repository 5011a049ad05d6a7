"""The system's trust as a jail shows it: what is copied, what is added, what is left out."""

from __future__ import annotations

import datetime
import os
import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
from cryptography.x509.oid import NameOID

from outpass.broker import keys, shown


@pytest.fixture
def ours() -> bytes:
    return keys.make(datetime.datetime.now(datetime.UTC)).ca_cert.encode()


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A directory as Debian's: files elsewhere, links to them, links among them, a key that lies there by mistake."""
    elsewhere, made = tmp_path / "share", tmp_path / "certs"
    elsewhere.mkdir()
    made.mkdir()
    (elsewhere / "one.crt").write_bytes(trustme.CA().cert_pem.bytes())
    (made / "one.pem").symlink_to(elsewhere / "one.crt")
    (made / "0123abcd.0").symlink_to("one.pem")
    (made / "gone.pem").symlink_to("nowhere")
    (made / "key.pem").write_bytes(trustme.CA().private_key_pem.bytes())
    (made / "ca-certificates.crt").write_bytes(b"the system's own")
    (made / "ca-bundle.crt").symlink_to(elsewhere / "one.crt")
    (made / "java").mkdir()
    return made


def test_links_are_followed_keys_stay_out_and_ours_is_added(tmp_path: Path, system: Path, ours: bytes) -> None:
    before = os.umask(0o077)  # as the daemon's
    try:
        made = shown.make(tmp_path / "trust", trustme.CA().cert_pem.bytes() + ours, ours, system)
    finally:
        os.umask(before)
    certs = Path(made.certs)
    assert (certs / "one.pem").read_bytes() == (system / "one.pem").read_bytes() and not (certs / "one.pem").is_symlink()
    assert os.readlink(certs / "0123abcd.0") == "one.pem"
    assert not (certs / "key.pem").exists()
    assert ours in (certs / "ca-certificates.crt").read_bytes() and ours in (certs / "ca-bundle.crt").read_bytes()
    assert (system / "ca-certificates.crt").read_bytes() == b"the system's own", "the system's is not touched"
    for path in (tmp_path / "trust").rglob("*"):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path
    assert any("gone.pem" in problem for problem in made.problems)


def test_openssl_finds_our_ca_in_the_directory(tmp_path: Path, system: Path, ours: bytes) -> None:
    made = shown.make(tmp_path / "trust", ours, ours, system)
    assert ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(capath=made.certs) is None
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    (tmp_path / "ours.pem").write_bytes(ours)
    command = ["openssl", "verify", "-no-CAfile", "-CApath", made.certs, str(tmp_path / "ours.pem")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["outpass 1f2e", "  Two   Words ", "x"])
def test_the_hash_of_a_subject_is_openssls(name: str, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Org"), x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = builder.serial_number(1).not_valid_before(now).not_valid_after(now).sign(key, hashes.SHA256())
    (tmp_path / "c.pem").write_bytes(made.public_bytes(Encoding.PEM))
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(tmp_path / "c.pem")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert shown.subject_hash(made) == said


def test_a_second_ca_of_the_same_name_gets_the_next_number(tmp_path: Path, system: Path, ours: bytes) -> None:
    name = shown.subject_hash(x509.load_pem_x509_certificate(ours))
    (system / f"{name}.0").symlink_to("one.pem")
    made = shown.make(tmp_path / "trust", ours, ours, system)
    assert os.readlink(Path(made.certs) / f"{name}.1") == "outpass.pem"


def test_java_reads_its_store_without_a_password(tmp_path: Path, system: Path, ours: bytes) -> None:
    other = trustme.CA().cert_pem.bytes()
    made = shown.make(tmp_path / "trust", other + ours, ours, system)
    store = Path(made.java).read_bytes()
    found = {entry.certificate.subject for entry in pkcs12.load_pkcs12(store, None).additional_certs}
    wanted = {x509.load_pem_x509_certificate(pem).subject for pem in (other, ours)}
    assert found == wanted
    assert (Path(made.certs) / "java" / "cacerts").read_bytes() == store
    if (keytool := shutil.which("keytool")) is not None:
        listed = subprocess.run(
            [keytool, "-list", "-keystore", made.java, "-storepass", ""], capture_output=True, text=True, check=False
        )
        assert "contains 2 entries" in listed.stdout, listed.stdout + listed.stderr


def test_where_cryptography_cannot_make_javas_store_that_is_said(
    tmp_path: Path, system: Path, ours: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pkcs12, "serialize_java_truststore", raising=False)
    made = shown.make(tmp_path / "trust", ours, ours, system)
    assert made.certs and not made.java and not (Path(made.certs) / "java").exists()
    assert any("Java keeps its own" in problem for problem in made.problems)


def test_a_system_without_the_directory_gets_one_with_the_bundle(tmp_path: Path, ours: bytes) -> None:
    made = shown.make(tmp_path / "trust", ours, ours, tmp_path / "none")
    assert (Path(made.certs) / "ca-certificates.crt").read_bytes() == ours and not made.problems


def test_a_place_that_cannot_be_written_costs_the_directory_not_the_daemon(tmp_path: Path, ours: bytes) -> None:
    (tmp_path / "file").touch()
    made = shown.make(tmp_path / "file" / "trust", ours, ours, tmp_path / "none")
    assert (made.certs, made.java) == ("", "") and "cannot be shown" in made.problems[0]
