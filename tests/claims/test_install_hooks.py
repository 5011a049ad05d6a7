"""Claims: what a package runs while it is being installed does not phone home, also where its installer may reach an index.

The sdist is built without isolation, so that requests can be imported (pip's default is tests/e2e/test_installs.py).

Judged at the attacker's server. Each package tries every way that it knows and then installs well; without outpass each way
arrives, which shows that the judge is awake.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import phoning
from tests.support.installed import needs
from tests.support.outside import inside
from tests.support.runs import OUTPASS, apps, environment, records

POLICY = "version: 1\ninclude: [preset:python-packaging, preset:node-packaging, preset:http-clients]\npackages: {}\n"
INDEXES = {
    "PIP_INDEX_URL": "https://index.example.com/simple/",
    "npm_config_registry": "https://registry.example.com/",
    "npm_config_update_notifier": "false",
}
_PIP = ["install", "-q", "--no-index", "--no-build-isolation", "--no-cache-dir", "--disable-pip-version-check", "--target", "to"]


class Hook(NamedTuple):
    make: Callable[[Path], Path]
    ways: tuple[str, ...]
    chains: set[tuple[str, ...]]
    """All that its refusals are charged to. An isolated child of Python has no pass; who asks the nameserver is unknown."""


HOOKS = {
    "an sdist's build backend": Hook(
        phoning.sdist,
        phoning.PYTHON_WAYS,
        {("?", "app", "pip", "app"), ("exe:curl", "?", "app", "pip", "app"), ("unattributed",)},
    ),
    "a wheel's .pth file": Hook(
        phoning.wheel, phoning.PYTHON_WAYS, {("phoning", "app"), ("exe:curl", "phoning", "app"), ("unattributed",)}
    ),
    "an npm post-install script": Hook(phoning.npm, phoning.NODE_WAYS, {("exe:node",), ("exe:curl",), ("unattributed",)}),
}


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With pip, and on top of the applications' packages (requests)."""
    made = tmp_path_factory.mktemp("hooks") / "venv"
    subprocess.run([apps(), "-m", "venv", made], check=True)
    site = next((made / "lib").glob("python3.*/site-packages"))
    (site / "apps.pth").write_text(f"{next((apps().parent.parent / 'lib').glob('python3.*/site-packages'))}\n")
    yield made
    shutil.rmtree(made.parent)


def command(name: str, package: Path, venv: Path) -> list[str]:
    if name.startswith("an npm"):
        return [needs("npm"), "install", "--offline", "--no-audit", "--no-fund", "--foreground-scripts", str(package)]
    install = [str(venv / "bin" / "pip"), *_PIP, str(package)]
    if "pth" not in name:
        return install
    start = "import site, sys; site.addsitedir('to')"
    return ["sh", "-ec", '"$@" && exec "$0" -c "' + start + '"', str(venv / "bin" / "python"), *install]


def arrived(told: dict[str, Any]) -> set[str]:
    return set(re.findall(r"loot-(\w+)", " ".join(told["arrived"])))


def run(name: str, venv: Path, where: Path, *before: str) -> dict[str, Any]:
    """The installation, alone or behind `before`; it must have run its hook, and have ended well."""
    (where / "project").mkdir()
    (where / "project" / "package.json").write_text(json.dumps({"name": "t", "version": "1.0.0", "private": True}))
    package = HOOKS[name].make(where)
    env = environment(where, TRIED=str(where / "project" / "tried"), **INDEXES)
    told = inside(where, [*before, *command(name, package, venv)], env, where / "project")
    assert told["code"] == 0 and (where / "project" / "tried").exists(), told
    return told


@pytest.mark.parametrize("name", HOOKS)
def test_without_outpass_an_install_hook_phones_home(name: str, venv: Path, tmp_path: Path) -> None:
    assert arrived(run(name, venv, tmp_path)) == set(HOOKS[name].ways)


@pytest.mark.parametrize("name", HOOKS)
def test_an_install_hook_cannot_phone_home_and_is_not_charged_as_its_installer(name: str, venv: Path, tmp_path: Path) -> None:
    (tmp_path / "outpass.yaml").write_text(POLICY)
    told = run(name, venv, tmp_path, OUTPASS, "run", "-q", "--policy", str(tmp_path / "outpass.yaml"), "--")
    assert told["arrived"] == [], told
    found = records(tmp_path)
    assert {r["verdict"] for r in found if r["kind"] == "decision"} == {"deny"}, found
    assert {tuple(link.partition("@")[0] for link in r["chain"]) for r in found if r["kind"] == "decision"} == HOOKS[name].chains
