"""The store of what is trusted."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from outpass import trust
from outpass.errors import UsageError


def test_the_store_is_the_users_alone(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    trust.record(tmp_path / "p.yaml", "d1", env=env)
    store = tmp_path / "config" / "outpass" / "trusted"
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.parent.stat().st_mode) == 0o700
    assert trust.recorded(tmp_path / "p.yaml", env=env) == "d1"


def test_entries_stay_and_change(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    for name, digest in (("a", "1"), ("b", "2"), ("a", "3")):
        trust.record(tmp_path / name, digest, env=env)
    assert trust.recorded(tmp_path / "a", env=env) == "3"
    assert trust.recorded(tmp_path / "b", env=env) == "2"
    assert not list((tmp_path / ".config" / "outpass").glob(".trusted-*"))


@pytest.mark.parametrize("content", ["", "[]", "nonsense", '{"x": 7}'])
def test_a_damaged_store_trusts_nothing(tmp_path: Path, content: str) -> None:
    env = {"HOME": str(tmp_path)}
    trust.record(tmp_path / "a", "1", env=env)
    (tmp_path / ".config" / "outpass" / "trusted").write_text(content)
    assert trust.recorded(tmp_path / "a", env=env) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_store_that_others_may_write_trusts_nothing(tmp_path: Path, mode: int) -> None:
    env = {"HOME": str(tmp_path)}
    trust.record(tmp_path / "a", "1", env=env)
    (tmp_path / ".config" / "outpass" / "trusted").chmod(mode)
    assert trust.recorded(tmp_path / "a", env=env) is None


def test_a_link_and_its_file_are_one(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    trust.record(tmp_path / "link", "1", env=env)
    assert json.loads((tmp_path / ".config" / "outpass" / "trusted").read_text()) == {str(tmp_path / "a"): "1"}


@pytest.mark.parametrize("env", [{}, {"HOME": ""}, {"HOME": "relative"}, {"XDG_CONFIG_HOME": "relative", "HOME": "/x"}])
def test_without_a_home_there_is_no_trust(env: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="neither XDG_CONFIG_HOME nor HOME"):
        trust.recorded(Path("/x"), env=env)


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / ".config").touch()
    with pytest.raises(UsageError, match=r"cannot be written: (not a directory|file exists)"):
        trust.record(tmp_path / "a", "1", env={"HOME": str(tmp_path)})
