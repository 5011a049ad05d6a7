"""The store's file: nobody else reads it, and what cannot be a log is refused and left as it is."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from outpass.audit import database, store
from outpass.errors import StartError
from tests.support.records import NOW, a_record


def test_nobody_else_can_read_the_log(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        log = store.Store(tmp_path / "a" / "b" / "audit.db", now=NOW)
        log.append(a_record())
        log.flush()
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [tmp_path / "a" / "b", *(tmp_path / "a" / "b").iterdir()]}
        log.close()
    finally:
        os.umask(old)
    assert modes == {"b": 0o700, "audit.db": 0o600, "audit.db-wal": 0o600, "audit.db-shm": 0o600}


def test_a_log_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    store.Store(tmp_path / "audit.db", now=NOW).close()
    (tmp_path / "audit.db").chmod(0o644)
    store.Store(tmp_path / "audit.db", now=NOW).close()
    assert stat.S_IMODE((tmp_path / "audit.db").stat().st_mode) == 0o600


def a_text(path: Path) -> None:
    path.write_text("this is no database, and it is long enough to have a header of one hundred bytes " * 20)


def another_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE cookies (value)")


def a_newer_one(path: Path) -> None:
    store.Store(path, now=NOW).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")


def a_damaged_one(path: Path) -> None:
    log = store.Store(path, now=NOW)
    for n in range(200):
        log.append(a_record(n))
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * 8000 + whole[8100:])


def a_symlink(path: Path) -> None:
    path.with_name("target").write_bytes(b"")
    path.symlink_to("target")


def a_directory(path: Path) -> None:
    path.mkdir()


def another_database_for_all_to_read(path: Path) -> None:
    another_database(path)
    path.chmod(0o644)


def in_a_folder_for_all(path: Path) -> None:
    path.parent.chmod(0o777)


BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a text file": (a_text, "is damaged or is no SQLite database"),
    "another program's database": (another_database, "is a database of another program"),
    "the same, not private": (another_database_for_all_to_read, "is a database of another program"),
    "a log of a newer outpass": (a_newer_one, "was written by a newer outpass (schema 2)"),
    "a damaged log": (a_damaged_one, "is damaged or is no SQLite database"),
    "a symbolic link": (a_symlink, "is not a regular file"),
    "a directory": (a_directory, "is not a regular file"),
    "a place where everybody may write": (in_a_folder_for_all, "everybody may write to"),
}


@pytest.mark.parametrize("make,message", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_a_log_is_refused_and_left_as_it_is(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "audit.db"
    make(path)
    before = path.lstat().st_mode if path.exists() else None, path.read_bytes() if path.is_file() else None
    with pytest.raises(StartError) as refused:
        store.Store(path, now=NOW)
    assert message in refused.value.message and refused.value.hint
    after = path.lstat().st_mode if path.exists() else None, path.read_bytes() if path.is_file() else None
    assert after == before


def test_a_log_that_stays_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OPEN_S", 0.05)
    store.Store(tmp_path / "audit.db", now=NOW).close()
    holder = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StartError, match="locked by another program"):
        store.Store(tmp_path / "audit.db", now=NOW)
    holder.close()


def test_a_place_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot be opened"):
        store.Store(tmp_path / "file" / "audit.db", now=NOW)
