"""One gate, one TLS origin and one plain origin, each real, for a whole module of tests.

Lives here: fixtures. May not live here: policies of one test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.engine import engine
from tests.support.gate import Gate
from tests.support.h2_raw_origin import RawH2Origin
from tests.support.raw_origin import RawOrigin

POLICY = """
version: 1
packages:
  stripe:
    allow: [network:http]
    http: ["https://api.test/v1/**", "http://plain.test/v1/**", "https://192.0.2.7/**"]
    deny: {http: ["https://api.test/v1/secret/**"]}
  other: {allow: [network:http], http: ["https://api.test/other/**"]}
  unattributed: {allow: [network:http], http: ["https://open.test/**", "http://open.test/**"]}
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[RawOrigin]:
    """An HTTPS origin for api.test and open.test."""
    with RawOrigin("api.test", cert_hosts=("api.test", "open.test", "192.0.2.7")) as made:
        yield made


@pytest.fixture(scope="module")
def plain() -> Iterator[RawOrigin]:
    """An HTTP origin for plain.test and open.test."""
    with RawOrigin("plain.test", tls=False) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(origin: RawOrigin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with the origin's CA."""
    path = tmp_path_factory.mktemp("ca") / "upstream.pem"
    assert origin.ca is not None
    origin.ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def gate(origin: RawOrigin, plain: RawOrigin, bundle: Path) -> Iterator[Gate]:
    """A gate that sends the test names to the origins."""
    overrides = [
        ("api.test", 443, "127.0.0.1", origin.port),
        ("open.test", 443, "127.0.0.1", origin.port),
        ("192.0.2.7", 443, "127.0.0.1", origin.port),
        ("plain.test", 80, "127.0.0.1", plain.port),
        ("open.test", 80, "127.0.0.1", plain.port),
    ]
    with Gate(POLICY, connect_to=overrides, bundle=bundle) as made:
        yield made
        assert not made.errors, made.errors


@pytest.fixture(scope="module")
def h2_origin(origin: RawOrigin) -> Iterator[RawH2Origin]:
    """An HTTP/2 origin that does as each test says, under the CA of the others."""
    assert origin.ca is not None
    with RawH2Origin(origin.ca, "h2.test") as made:
        yield made


@pytest.fixture(scope="module")
def h2_gate(h2_origin: RawH2Origin, bundle: Path) -> Iterator[Gate]:
    """A gate before it."""
    policy = POLICY.replace("https://192.0.2.7/**", "https://h2.test/**")
    with Gate(policy, connect_to=[("h2.test", 443, "127.0.0.1", h2_origin.port)], bundle=bundle) as made:
        yield made
        assert not made.errors, made.errors


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """A CA for a test's own origins, and its file."""
    made = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "upstream.pem"
    made.cert_pem.write_to_path(str(path))
    return made, path


@pytest.fixture(autouse=True)
def _forget(origin: RawOrigin, plain: RawOrigin) -> None:
    """Every test starts with empty logs at the origins."""
    origin.seen.clear()
    plain.seen.clear()


@pytest.fixture(params=["stock", "ours"])
def ours(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the classes are ours."""
    with engine(request.param):
        yield request.param == "ours"
