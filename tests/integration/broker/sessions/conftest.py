"""One real daemon, its gate beside it, and a process in a jail of its own.

Lives here: fixtures. May not live here: the daemon and the puppet (tests/support/daemon.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Control, Puppet, RunningDaemon, daemon

POLICY = """\
version: 1
transparent: [requests]
packages:
  app: {allow: [network:http, network:listen], http: ["https://api.example.com/**"], listen: ["8000"]}
  six: {allow: [network:http], http: ["https://api.example.com/**"]}
  old: {allow: [network:http], http: ["https://api.example.com/**"], versions: ">=2"}
  tunnel:
    allow: [network:http, network:socket]
    http: [{url: "https://db.example.com/", intercept: false}, "https://both.example.com/**"]
    socket: ["sql.example.com:5432", "both.example.com:443"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> str:
    site = tmp_path / "site-packages"
    for name, version in (("six", "1.16"), ("old", "1.0"), ("tunnel", "3"), ("evil", "6.6.6")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "RECORD").write_text(f"{name}.py,,\n")
        (site / f"{name}.py").write_text("")
    return str(site)


class Jail:
    """An open jail and what opened it."""

    def __init__(self, control: Control, opened: dict[str, Any]) -> None:
        self.control = control
        self.opened = opened
        self.id = opened["jail"]

    def register(self, pid: int) -> dict[str, Any]:
        return self.control.ask({"op": "jail.proc", "pid": pid})


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "outpass.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def jail(served: RunningDaemon, policy: Path) -> Iterator[Jail]:
    control = served.control()
    opened = control.open(policy)
    assert opened["ok"], opened
    yield Jail(control, opened)
    control.close()


@pytest.fixture
def puppet(served: RunningDaemon, jail: Jail) -> Iterator[Puppet]:
    with Puppet(served.ready["mint"]) as puppet:
        assert jail.register(puppet.pid) == {"ok": True}
        yield puppet


def spawn_pass(puppet: Puppet, *chain: str) -> str:
    return puppet.mint(*chain, use="spawn", dst="*:0", tls=False)["pass"]
