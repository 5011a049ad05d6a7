"""A company's own CA in `SSL_CERT_FILE` or `REQUESTS_CA_BUNDLE`: the gate verifies origins by it, and programs see the gate.

Judged by the certificate that the program was shown, and by what arrived at an origin that nobody but that CA vouches for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.jailed import impossible
from tests.support.origin import Origin
from tests.support.runs import run_script

HOST = "intranet.example.com"
POLICY = f'version: 1\ninclude: [preset:http-clients]\npackages:\n  app: {{allow: [network:http], http: ["https://{HOST}/**"]}}\n'
SCRIPT = f"""
import requests
r = requests.get("https://{HOST}/a", stream=True)
print(r.status_code, dict(pair[0] for pair in r.raw.connection.sock.getpeercert()["issuer"])["commonName"])
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin((HOST,)) as running:
        yield running


@pytest.mark.parametrize(
    ("variable", "jail"),
    [("SSL_CERT_FILE", True), ("REQUESTS_CA_BUNDLE", False)],
    ids=["SSL_CERT_FILE in a jail", "REQUESTS_CA_BUNDLE without one"],
)
def test_the_gate_verifies_by_the_users_ca_and_the_program_sees_the_gates(
    variable: str, jail: bool, origin: Origin, tmp_path: Path
) -> None:
    """That nobody else vouches for the origin is test_certificates.py's to show, of the gate."""
    if jail and (why := impossible(os.getuid())):
        pytest.skip(f"no jail is possible here: {why}")
    env = {"SSL_CERT_FILE": "", "REQUESTS_CA_BUNDLE": "", variable: str(origin.ca_file)}
    before = len(origin.seen)
    run = run_script(tmp_path, SCRIPT, *origin.connect_to(), policy=POLICY, jail=jail, **env)
    assert run.code == 0 and run.out.startswith("200 outpass"), run.said()
    assert len(origin.seen) == before + 1
