"""Trust: the outpass CA beside whatever a program trusts, and verification as strict as it was.

Lives here: TLS with real certificates; skipped where nothing makes them. May not live here: the gate's certificates.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.shim.rig import World

trustme = pytest.importorskip("trustme")


@pytest.fixture
def tls(tmp_path: Path):
    ca, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("api.example.com").configure_cert(context)
    world = World(tmp_path, context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "pin.pem"))
    world.env["OUTPASS_CA"] = str(tmp_path / "ca.pem")
    world.env["PIN"] = str(tmp_path / "pin.pem")
    yield world
    world.close()


GET = """
import os, ssl, urllib.request
def get(context, host="api.example.com"):
    return urllib.request.urlopen(f"https://{host}/", context=context).read()
"""
WAYS = {
    "the default": "None",
    "create_default_context": "ssl.create_default_context()",
    "a pinned bundle, as certifi's users do": "ssl.create_default_context(cafile=os.environ['PIN'])",
    "load_verify_locations": "made(lambda c: c.load_verify_locations(cafile=os.environ['PIN']))",
    "load_default_certs": "made(lambda c: c.load_default_certs())",
    "set_default_verify_paths": "made(lambda c: c.set_default_verify_paths())",
}
MADE = "def made(f):\n    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); f(c); return c\n"


@pytest.mark.parametrize("way", WAYS)
def test_the_gate_is_trusted_however_the_program_loads_its_trust(tls: World, way: str) -> None:
    tls.run(GET + MADE + f"assert get({WAYS[way]}) == b'ok'")
    _connect, inner = tls.proxy.heads
    assert inner["outpass-token"] == ["pass-2"]
    assert [m["tls"] for m in tls.broker.of("mint")] == [True, True]


def test_the_wrong_host_and_the_wrong_ca_are_refused_as_before(tls: World) -> None:
    done = tls.run(
        GET
        + """
for host in ("wrong.example.com",):
    try: get(None, host); print("open")
    except OSError as e: print("refused" if "certificate verify failed" in str(e) else e)
"""
    )
    assert done.stdout == "refused\n"
    tls.env["OUTPASS_CA"] = tls.env["PIN"]
    done = tls.run(GET + "try: get(None)\nexcept OSError as e: print('refused' if 'certificate verify failed' in str(e) else e)")
    assert done.stdout == "refused\n"


def test_a_ca_that_cannot_be_read_is_said_and_nothing_is_trusted_instead(tls: World) -> None:
    tls.env["OUTPASS_CA"] = "/nowhere/ca.pem"
    done = tls.run(GET + "try: get(None)\nexcept OSError as e: print('refused' if 'certificate verify failed' in str(e) else e)")
    assert done.stdout == "refused\n"
    assert done.stderr.startswith("outpass: error: the outpass ca cannot be read")
