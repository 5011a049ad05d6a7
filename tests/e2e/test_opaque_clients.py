"""Unmodified clients under `intercept: false`: each sees the origin's own certificate, and the audit sees who, where and how much."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.files_server import FilesServer, repository
from tests.support.homes import Home
from tests.support.installed import needs
from tests.support.jailed import impossible
from tests.support.origin import Origin
from tests.support.runs import Run, run_script

HOST, OTHER = "status.example.com", "evil.example.org"
OWN = 'HOST, OTHER, CA = "status.example.com", "evil.example.org", {ca!r}\n'
"""The gate is not told to trust the origin's CA, so it could not have looked into what arrives."""
REQUESTS = """
import requests
print("status", requests.get(f"https://{HOST}/a", verify=CA).status_code)
r = requests.get(f"https://{OTHER}/a", verify=CA)
print("refused" if r.status_code == 403 else r)
"""
HTTPX = """
import httpx, ssl
with httpx.Client(http2=True, verify=ssl.create_default_context(cafile=CA)) as c:
    print("status", c.get(f"https://{HOST}/a").status_code, c.get(f"https://{HOST}/b").http_version)
    r = c.get(f"https://{OTHER}/a")
    print("refused" if r.status_code == 403 else r)
"""
URLLIB = """
import ssl, urllib.request as u, urllib.error
context = ssl.create_default_context(cafile=CA)
print("status", u.urlopen(f"https://{HOST}/a", context=context).status)
try: u.urlopen(f"https://{OTHER}/a", context=context)
except urllib.error.HTTPError as e: print("refused" if e.code == 403 else e)
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin((HOST, OTHER)) as running:
        yield running


def policy(principal: str, host: str = HOST) -> str:
    rule = f'{{url: "https://{host}/", intercept: false}}'
    return f'version: 1\ninclude: [preset:http-clients]\npackages:\n  "{principal}": {{allow: [network:http], http: [{rule}]}}\n'


def check(run: Run, principal: str, host: str = HOST) -> None:
    """One permission and one end with its bytes for each tunnel, and neither knows a path."""
    mine = [r for r in run.records if r["host"] == host and r["scheme"] == "https"]
    opened, closed = ([r for r in mine if r["kind"] == kind] for kind in ("decision", "close"))
    assert opened and len(opened) == len(closed), run.said()
    for record in mine:
        assert (record["verdict"], record["intercept"], record["path"]) == ("allow", False, None), run.said()
        assert record["principal"] == principal, run.said()
    assert all(r["bytes_out"] > 300 and r["bytes_in"] > 1000 for r in closed), run.said()


@pytest.mark.parametrize("jail", [False, True], ids=["no-jail", "jail"])
def test_python_clients_see_the_origins_own_certificate(jail: bool, origin: Origin, tmp_path: Path) -> None:
    if jail and (why := impossible(os.getuid())):
        pytest.skip(f"no jail is possible here: {why}")
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(origin.ca_file, project / "origin-ca.pem")
    before = len(origin.seen)
    code = OWN.format(ca=str(project / "origin-ca.pem")) + REQUESTS + HTTPX + URLLIB
    run = run_script(tmp_path, code, *origin.connect_to(), policy=policy("app"), jail=jail)
    assert " ".join(run.out.split()) == "status 200 refused status 200 HTTP/2 refused status 200 refused", run.said()
    arrived = origin.wait(before + 4)[before:]
    assert {seen.host for seen in arrived} == {HOST}
    for seen in arrived:
        assert not seen.header("outpass-token") and not seen.header("proxy-authorization")
    check(run, "app")


def test_curl_sees_the_origins_own_certificate_through_the_proxy_and_without_it(home: Home, origin: Origin) -> None:
    curl, before = needs("curl"), len(origin.seen)
    ca = home.put("project/origin-ca.pem", origin.ca_file.read_bytes())
    ask = f"{curl} -sS --cacert {ca} -o /dev/null -w '%{{http_code}}\\n' https://{HOST}/a"
    script = f"{ask}; env -i {ask}"
    run = home.run(policy("exe:curl"), ["sh", "-c", script], *origin.connect_to())
    assert run.out.split() == ["200", "200"], run.said()
    assert [seen.host for seen in origin.wait(before + 2)[before:]] == [HOST, HOST]
    check(run, "exe:curl")


def test_git_clones_without_being_looked_into(home: Home, tmp_path: Path) -> None:
    git = needs("git")
    with FilesServer(repository(tmp_path), "git.example.com", tmp_path) as server:
        command = [git, "clone", "-q", "https://git.example.com/repo.git", "copy"]
        run = home.run(policy("exe:git", "git.example.com"), command, *server.connect_to(), ca=server.ca_file)
        assert run.code == 0, run.said()
        assert (home.project / "copy" / "README").read_text() == "hello\n"
        check(run, "exe:git", "git.example.com")
