"""The journal: whole up to its last line however its daemon ended, and nothing at all when anything is odd."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from outpass.broker import journal
from outpass.broker.journal import Journal

KEYS = {"daemon": "d"}


def written(path: Path) -> Journal:
    made = Journal(path)
    made.begin(KEYS)
    made.note("jail", "j-1", (7, 70), 1.5)
    made.note("process", "j-1", 8, 80, 9)
    made.note("session", "j-1", {"sid": "s-1"})
    made.note("session", "j-1", {"sid": "s-2"})
    made.note("session", "j-1", {"sid": "s-3"})
    made.note("end", "j-1", "s-2")
    made.note("revoke", "j-1", "s-3", 9, 90)
    made.note("address", "j-1", ["198.18.0.1", "a.test", None, [], []], [])
    made.note("address", "j-1", ["198.18.0.2", "b.test", None, [], []], ["198.18.0.1"])
    made.note("jail", "j-2", (7, 70), 1.5)
    made.note("close", "j-2")
    return made


@pytest.mark.parametrize("whole", [False, True])
def test_the_next_one_reads_what_happened(whole: bool, tmp_path: Path) -> None:
    first = written(tmp_path / "journal")
    if whole:
        first.begin(KEYS)  # writes the table, not the story
    second = Journal(tmp_path / "journal")
    assert second.keys == KEYS and second.jails.keys() == {"j-1"}
    kept = second.jails["j-1"]
    assert (kept.launcher, kept.opened, kept.processes, kept.netns) == ((7, 70), 1.5, [(8, 80)], 9)
    assert kept.sessions.keys() == {"s-1"} and kept.ended == {"s-2", "s-3"} and kept.revoked == {"s-3": (9, 90)}
    assert kept.addresses.keys() == {"198.18.0.2"}
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    written(tmp_path / "journal")
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'["end","j-1","s-')
    assert Journal(tmp_path / "journal").jails["j-1"].sessions.keys() == {"s-1"}


def _other_boot(path: Path) -> None:
    head, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps({**json.loads(head), "boot": "another"}) + "\n" + rest)


@pytest.mark.parametrize(
    ("sentence", "spoil"),
    [
        ("others may read it", lambda path: path.chmod(0o644)),
        ("it is a link", lambda path: (path.rename(path.with_name("x")), path.symlink_to(path.with_name("x")))),
        ("it is of another boot", _other_boot),
        ("a line in the middle is none", lambda path: path.write_text(path.read_text().replace('["process"', '["process'))),
        ("it is empty", lambda path: path.write_text("")),
        ("it is of another version", lambda path: path.write_text(path.read_text().replace('"v":1', '"v":2', 1))),
    ],
)
def test_one_that_is_odd_says_nothing(sentence: str, spoil: Callable[[Path], object], tmp_path: Path) -> None:
    written(tmp_path / "journal")
    spoil(tmp_path / "journal")
    assert (Journal(tmp_path / "journal").keys, Journal(tmp_path / "journal").jails) == (None, {}), sentence


def test_a_daemon_that_ends_ends_no_jail(tmp_path: Path) -> None:
    first = written(tmp_path / "journal")
    first.freeze()
    first.note("end", "j-1", "s-1")
    first.note("close", "j-1")
    assert first.close() and Journal(tmp_path / "journal").jails["j-1"].sessions.keys() == {"s-1"}


def test_without_open_jails_nothing_is_kept(tmp_path: Path) -> None:
    first = written(tmp_path / "journal")
    first.note("close", "j-1")
    assert not first.close() and not (tmp_path / "journal").exists()


def test_it_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMPACT_BYTES", 1_000)
    first = written(tmp_path / "journal")
    for _ in range(1_000):
        first.note("address", "j-1", ["198.18.0.3", "c.test", None, [], []], [])
    assert (tmp_path / "journal").stat().st_size < 6_000
    assert Journal(tmp_path / "journal").jails["j-1"].addresses.keys() == {"198.18.0.2", "198.18.0.3"}


def test_one_that_cannot_be_written_is_given_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Half a story would let a process shed its spawner."""
    first = written(tmp_path / "journal")
    assert first._fd is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, first._fd)
    os.close(full)
    first.note("end", "j-1", "s-1")
    assert not (tmp_path / "journal").exists()
    assert "will not survive a restart" in capfd.readouterr().err
