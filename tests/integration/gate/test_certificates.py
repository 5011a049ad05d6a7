"""Origins with every certificate and every protocol version that must not be trusted: 502, the reason, what is wrong in words, and
not one byte of the request sent; judged at the origin. What badssl.com shows to browsers, from a CA of our own.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from outpass.reasons import Reason
from tests.support.certificates import Authority, Leaf, TlsServer, short_rsa
from tests.support.gate import Gate

ROOT = Authority("root")
MIDDLE = Authority("middle", ROOT)
STRANGER = Authority("stranger")
NO_CA = Authority("no CA", ROOT, is_ca=False)
CONSTRAINED = Authority("constrained", ROOT, x509.NameConstraints([x509.DNSName("other.test")], None))
EXCLUDING = Authority("excluding", ROOT, x509.NameConstraints(None, [x509.DNSName("excluded.test")]))

CERTIFICATES: dict[str, tuple[Leaf, str]] = {
    "expired.test": (Leaf(ROOT, ["expired.test"], days=(-30, -1)), "expired"),
    "early.test": (Leaf(ROOT, ["early.test"], days=(1, 30)), "not yet valid"),
    "wrong.test": (Leaf(ROOT, ["right.test"]), "hostname mismatch"),
    "self-signed.test": (Leaf(None, ["self-signed.test"]), "self-signed"),
    "untrusted.test": (Leaf(STRANGER, ["untrusted.test"]), "unable to get local issuer"),
    "untrusted-root.test": (Leaf(STRANGER, ["untrusted-root.test"], chain=[STRANGER]), "self-signed certificate in certificate chain"),
    "incomplete.test": (Leaf(MIDDLE, ["incomplete.test"]), "unable to get local issuer"),
    "by-no-ca.test": (Leaf(NO_CA, ["by-no-ca.test"], chain=[NO_CA]), "invalid ca"),
    "constrained.test": (Leaf(CONSTRAINED, ["constrained.test"], chain=[CONSTRAINED]), "permitted subtree violation"),
    "a.excluded.test": (Leaf(EXCLUDING, ["a.excluded.test"], chain=[EXCLUDING]), "excluded subtree violation"),
    "deep.wild.test": (Leaf(ROOT, ["*.test"]), "hostname mismatch"),
    "partial.wild.test": (Leaf(ROOT, ["p*.wild.test"]), "hostname mismatch"),
    "inner.wild.test": (Leaf(ROOT, ["inner.*.test"]), "hostname mismatch"),
    "all.wild.test": (Leaf(ROOT, ["*"]), "hostname mismatch"),
    "apex.wild.test": (Leaf(ROOT, ["*.apex.wild.test"]), "hostname mismatch"),
    "common-name.test": (Leaf(ROOT, subject="common-name.test"), "hostname mismatch"),
    "192.0.2.8": (Leaf(ROOT, ["192.0.2.8"], subject="192.0.2.8"), "ip address mismatch"),
    "192.0.2.9": (Leaf(ROOT, addresses=["192.0.2.10"]), "ip address mismatch"),
    "name-for-address.test": (Leaf(ROOT, addresses=["127.0.0.1"]), "hostname mismatch"),
    "client-use.test": (Leaf(ROOT, ["client-use.test"], usage=ExtendedKeyUsageOID.CLIENT_AUTH), "purpose"),
    "sha1.test": (Leaf(ROOT, ["sha1.test"], sha1=True), "too weak"),
    "rsa1024.test": (Leaf(ROOT, ["rsa1024.test"], key=short_rsa()), "key too weak"),
}  # fmt: skip


def _version(highest: ssl.TLSVersion) -> Callable[[ssl.SSLContext], None]:
    def adjust(context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = highest

    return adjust


def _ciphers(text: str) -> Callable[[ssl.SSLContext], None]:
    def adjust(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(text)

    return adjust


PROTOCOLS: dict[str, Callable[[ssl.SSLContext], None]] = {
    "tls10.test": _version(ssl.TLSVersion.TLSv1),
    "tls11.test": _version(ssl.TLSVersion.TLSv1_1),
    "cbc.test": _ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),
    "null.test": _ciphers("ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0"),
}
GOOD: dict[str, Leaf] = {
    "good.test": Leaf(ROOT, ["good.test"]),
    "chain.test": Leaf(MIDDLE, ["chain.test"], chain=[MIDDLE]),
    "one.wild.test": Leaf(ROOT, ["*.wild.test"]),
    "x.other.test": Leaf(CONSTRAINED, ["x.other.test"], chain=[CONSTRAINED]),
    "192.0.2.7": Leaf(ROOT, addresses=["192.0.2.7"]),
    "revoked.test": Leaf(
        ROOT,
        ["revoked.test"],
        extensions=[
            x509.CRLDistributionPoints(
                [x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.test/r.crl")], None, None, None)]
            ),
            x509.TLSFeature([x509.TLSFeatureType.status_request]),
        ],
    ),
}
POLICY = """
version: 1
packages:
  unattributed: {allow: [network:http], http: [%s]}
""" % ", ".join(f'"https://{host}/**"' for host in (*CERTIFICATES, *PROTOCOLS, *GOOD))  # noqa: UP031


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gate, dict[str, TlsServer]]]:
    """A gate that trusts ROOT, and a server for each case."""
    bundle = tmp_path_factory.mktemp("ca") / "root.pem"
    bundle.write_bytes(ROOT.pem())
    leaves = {host: TlsServer(leaf) for host, (leaf, _) in CERTIFICATES.items()}
    leaves |= {host: TlsServer(leaf) for host, leaf in GOOD.items()}
    leaves |= {host: TlsServer(Leaf(ROOT, [host]), adjust) for host, adjust in PROTOCOLS.items()}
    with contextlib.ExitStack() as stack:
        for server in leaves.values():
            stack.enter_context(server)
        overrides = [(host, 443, "127.0.0.1", server.port) for host, server in leaves.items()]
        yield stack.enter_context(Gate(POLICY, connect_to=overrides, bundle=bundle)), leaves


def _ask(gate: Gate, host: str) -> tuple[int, dict[str, str]]:
    wire = gate.connect()
    with wire:
        assert wire.ask(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n").status == 200
        inner = wire.secure(None if host[0].isdigit() else host)
        answer = inner.get("/secret", host, extra="Authorization: Bearer secret\r\n")
        return answer.status, answer.problem if answer.status != 200 else {}


@pytest.mark.parametrize("host", CERTIFICATES)
def test_a_certificate_that_must_not_be_trusted_gets_no_request(world: tuple[Gate, dict[str, TlsServer]], host: str) -> None:
    gate, servers = world
    status, problem = _ask(gate, host)
    assert (status, problem.get("code")) == (502, Reason.UPSTREAM_TLS)
    assert CERTIFICATES[host][1] in problem["detail"].lower()
    assert servers[host].connections == 1 and servers[host].got == b""
    record = gate.wait_records(1, host=host, kind="fault")[0]
    assert (record["reason"], record["status"]) == ("upstream_tls", 502)


@pytest.mark.parametrize("host", PROTOCOLS)
def test_a_protocol_that_must_not_be_spoken_is_not(world: tuple[Gate, dict[str, TlsServer]], host: str) -> None:
    gate, servers = world
    status, problem = _ask(gate, host)
    assert (status, problem.get("code")) == (502, Reason.UPSTREAM_TLS)
    assert servers[host].connections == 1 and servers[host].got == b""


@pytest.mark.parametrize("host", GOOD)
def test_a_certificate_that_is_good_is_taken(world: tuple[Gate, dict[str, TlsServer]], host: str) -> None:
    """So that nothing above is refused for another reason. `revoked.test` is among them: neither CRL nor OCSP is asked, not even
    with must-staple, as in the libraries that the gate stands before (SECURITY.md says so)."""
    gate, servers = world
    status, _ = _ask(gate, host)
    assert status == 200
    assert b"GET /secret" in servers[host].got
