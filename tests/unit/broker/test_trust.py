"""Bundles of certificates: which, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from outpass.broker import trust
from outpass.errors import StartError


def pem(name: str = "x") -> bytes:
    return trustme.CA(organization_name=name).cert_pem.bytes()


def test_only_certificates_are_taken_from_a_file(tmp_path: Path) -> None:
    ca = trustme.CA()
    (tmp_path / "both.pem").write_bytes(b"# comment\n" + ca.private_key_pem.bytes() + ca.cert_pem.bytes().replace(b"\n", b"\r\n"))
    found = trust.read_pem(tmp_path / "both.pem", "the file")
    assert found.count(b"BEGIN CERTIFICATE") == 1 and b"PRIVATE" not in found and b"\r" not in found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "holds no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 cannot be read"),
        (b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n", "certificate 1 cannot be read"),
    ],
)
def test_what_is_not_pem_is_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "bad.pem").write_bytes(content)
    with pytest.raises(StartError, match=says) as refused:
        trust.read_pem(tmp_path / "bad.pem", "the file")
    assert "the file" in refused.value.message


def test_ssl_cert_file_replaces_the_system_and_requests_ca_bundle_adds(tmp_path: Path) -> None:
    system, mine, corporate = pem("system"), pem("mine"), pem("corporate")
    for name, content in (("system", system), ("mine", mine), ("corporate", corporate)):
        (tmp_path / name).write_bytes(content)
    places = (str(tmp_path / "nowhere"), str(tmp_path / "system"))
    more = {"REQUESTS_CA_BUNDLE": str(tmp_path / "corporate")}
    assert trust.operator_trust({}, places)[0] == system
    assert trust.operator_trust(more, places)[0] == system + corporate
    assert trust.operator_trust({"SSL_CERT_FILE": str(tmp_path / "mine"), **more}, places)[0] == mine + corporate


def test_a_directory_is_not_followed_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "system").write_bytes(pem())
    _, warnings = trust.operator_trust({"REQUESTS_CA_BUNDLE": str(tmp_path)}, (str(tmp_path / "system"),))
    assert warnings == ["REQUESTS_CA_BUNDLE names a directory; only files are taken"]


def test_without_a_system_bundle_certifi_serves() -> None:
    assert trust.operator_trust({}, ())[0].count(b"BEGIN CERTIFICATE") > 50
