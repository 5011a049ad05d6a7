"""The CA and the pass key."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outpass.broker import keys

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)


def test_the_ca_signs_servers_and_nothing_below_them() -> None:
    made = keys.make(NOW)
    ca = x509.load_pem_x509_certificate(made.ca_cert.encode())
    assert ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"outpass {made.daemon}"
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.key_cert_sign and not usage.value.digital_signature
    assert list(ca.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    assert ca.not_valid_after_utc - NOW == keys.CA_LIFE and ca.not_valid_before_utc < NOW


def test_openssl_takes_it_in_strict_mode() -> None:
    context = ssl.create_default_context(cadata=keys.make(NOW).ca_cert)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert len(context.get_ca_certs()) == 1


def test_two_daemons_share_nothing() -> None:
    one, two = keys.make(NOW), keys.make(NOW)
    assert one.key != two.key and len(one.key) == 32
    assert {one.daemon, one.kid, one.ca_key}.isdisjoint({two.daemon, two.kid, two.ca_key})


def test_no_secret_shows_in_a_log(tmp_path: Path) -> None:
    made = keys.make(NOW)
    assert "PRIVATE" not in repr(made) and repr(made.key) not in repr(made)


@pytest.mark.parametrize(
    ("after", "due"),
    [
        (datetime.timedelta(0), False),
        (keys.CA_LIFE / 2 - datetime.timedelta(minutes=1), False),
        (keys.CA_LIFE / 2 + datetime.timedelta(minutes=1), True),
        (keys.CA_LIFE * 2, True),
        (-datetime.timedelta(minutes=20), False),
        (-datetime.timedelta(minutes=40), True),
    ],
)
def test_the_certificate_is_renewed_at_half_its_life_and_when_the_clock_was_set_back(
    after: datetime.timedelta, due: bool
) -> None:
    made = keys.make(NOW)
    assert made.due(NOW + after) is due
    assert not keys.renewed(made, NOW + after).due(NOW + after)
