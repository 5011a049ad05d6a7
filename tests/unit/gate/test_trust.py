"""What the gate trusts upstream: the machine's authorities, and the operator's beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trustme

from outpass.errors import StartError
from outpass.gate import trust


def test_the_operators_authorities_join_the_systems(tmp_path: Path) -> None:
    system, own = trustme.CA().cert_pem.bytes(), trustme.CA().cert_pem.bytes()
    (tmp_path / "system.pem").write_bytes(system)
    (tmp_path / "own.pem").write_bytes(own)
    descriptor, path = trust.joined(str(tmp_path / "own.pem"), str(tmp_path / "system.pem"))
    try:
        assert Path(path).read_bytes() == system + b"\n" + own
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_without_a_bundle_it_is_the_systems_alone(tmp_path: Path) -> None:
    (tmp_path / "system.pem").write_bytes(trustme.CA().cert_pem.bytes())
    descriptor, path = trust.joined(None, str(tmp_path / "system.pem"))
    assert Path(path).read_bytes() == (tmp_path / "system.pem").read_bytes()
    os.close(descriptor)


@pytest.mark.parametrize(
    "content", [None, b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", b"\xff\xfe"]
)
def test_a_bundle_that_holds_no_certificate_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError) as caught:
        trust.joined(str(path))
    assert str(path) in caught.value.message


def test_the_environment_names_the_systems_bundle_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corporate.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert trust.system_bundle() == str(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    assert trust.system_bundle() != str(tmp_path / "missing.pem")
