"""What the options of `run` ask of the jail."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpass.cli import enclosure
from outpass.cli.source import Choice
from outpass.errors import UsageError

DENY = Choice(None, (), True, None)


def home(path: Path) -> dict[str, str]:
    for name in (".config/outpass", ".local/state/outpass", "runtime/outpass"):
        (path / name).mkdir(parents=True)
    return {"HOME": str(path), "XDG_RUNTIME_DIR": str(path / "runtime")}


def test_outpass_own_directories_are_hidden_where_they_exist(tmp_path, monkeypatch) -> None:
    env = home(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = enclosure.request(enclosure.Options(), (), DENY, env)
    # What another run of this user left in the machine's own /tmp is hidden too, and is not this test's matter.
    mine = tuple(place for place in found.private if place.startswith(str(tmp_path)))
    assert mine == tuple(str(tmp_path / p) for p in ("runtime/outpass", ".config/outpass", ".local/state/outpass"))
    assert found.session == (str(tmp_path / "runtime"),)


def test_the_directory_of_the_operators_daemon_is_hidden_by_its_socket(tmp_path) -> None:
    (tmp_path / "daemon").mkdir()
    env = {"HOME": str(tmp_path), "OUTPASS_SOCKET": str(tmp_path / "daemon" / "control.sock")}
    assert str(tmp_path / "daemon") in enclosure.request(enclosure.Options(), (), DENY, env).private


def test_a_log_of_ones_own_choice_is_hidden_file_by_file(tmp_path) -> None:
    for name in ("audit.db", "audit.db-wal", "other.db"):
        (tmp_path / name).touch()
    found = enclosure.request(enclosure.Options(), (), DENY, {"HOME": str(tmp_path), "OUTPASS_STATE": str(tmp_path / "audit.db")})
    assert found.secret_files == (str(tmp_path / "audit.db"), str(tmp_path / "audit.db-wal"))


def test_paths_are_canonical(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "p.yaml").touch()
    source = Choice(tmp_path / "link" / "p.yaml", (), False, None)
    found = enclosure.request(
        enclosure.Options(allow_unix=(str(tmp_path / "link"),)), (str(tmp_path / "link"),), source, {"HOME": "/"}
    )
    assert found.policies == (str(tmp_path / "real" / "p.yaml"),)
    assert found.allow_unix == found.roots == (str(tmp_path / "real"),)


def test_a_socket_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UsageError) as refused:
        enclosure.request(enclosure.Options(allow_unix=("/nowhere.sock",)), (), DENY, {"HOME": "/"})
    assert "there is no such socket" in refused.value.message


def test_options_know_which_of_them_were_given() -> None:
    assert enclosure.Options().given() == []
    assert enclosure.Options(private_tmp=True, keep_fd=(7,)).given() == ["--private-tmp", "--keep-fd"]
