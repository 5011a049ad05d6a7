"""The store: nothing is lost, nothing is let through unrecorded, nobody else reads it, and a bad file is said to be bad."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from outpass.audit import store
from tests.support.records import NOW, a_record
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[3]


def allowed(number: int = 0, **changes: Any) -> dict[str, Any]:
    return a_record(number, kind="decision", verdict="allow", reason="allowed", **changes)


def ids(path: Path, **filters: Any) -> list[str]:
    return [r["id"] for r in store.read(path, **filters)]


# what is promised on a good day


def test_what_was_appended_is_read_back_in_order_and_unchanged(tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=NOW)
    written = [allowed(n, path="/\u202f é\\x1b", chain=["stripe@11.4.0", "app"]) for n in range(250)]
    assert all(log.append(r) for r in written)
    assert log.close() == 0
    assert list(store.read(tmp_path / "audit.db")) == written


def test_a_denial_is_on_disk_though_nobody_flushed_or_closed(tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=NOW)
    log.append(a_record(1))
    until("the writer is so far", lambda: ids(tmp_path / "audit.db") == ["r-1"])
    log.append(allowed(2))
    until("the writer is so far", lambda: ids(tmp_path / "audit.db") == ["r-1", "r-2"])
    log.close()


def test_records_from_many_threads_all_arrive(tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=NOW)
    threads = [threading.Thread(target=lambda t=t: [log.append(allowed(t * 1000 + n)) for n in range(300)]) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(ids(tmp_path / "audit.db")) == sorted(f"r-{t * 1000 + n}" for t in range(4) for n in range(300))


def test_after_close_nothing_is_taken(tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=NOW)
    assert log.close() == 0
    assert log.append(a_record()) is False


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import json, os, sys; from pathlib import Path; from outpass.audit import store\n"
        "log = store.Store(Path(sys.argv[1]), now=0.0)\n"
        "for r in json.loads(sys.argv[2]): log.append(r)\n"
        "assert log.flush(); os.kill(os.getpid(), 9)"
    )
    records = [allowed(n) for n in range(120)]
    child = subprocess.run([sys.executable, "-c", program, tmp_path / "audit.db", json.dumps(records)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert list(store.read(tmp_path / "audit.db")) == records


def test_two_daemons_may_write_to_one_file(tmp_path: Path) -> None:
    logs = [store.Store(tmp_path / "audit.db", now=NOW) for _ in range(2)]
    for n in range(200):
        assert logs[n % 2].append(allowed(n, jail=f"j-{n % 2}"))
    assert [log.close() for log in logs] == [0, 0]
    assert sorted(ids(tmp_path / "audit.db")) == sorted(f"r-{n}" for n in range(200))


def test_many_first_starts_at_once_make_one_file(tmp_path: Path) -> None:
    program = (
        "import json, sys; from pathlib import Path; from outpass.audit import store\n"
        "log = store.Store(Path(sys.argv[1]), now=0.0); log.append(json.loads(sys.argv[2])); sys.exit(log.close())"
    )
    path = tmp_path / "new" / "audit.db"
    children = [subprocess.Popen([sys.executable, "-c", program, path, json.dumps(a_record(n))]) for n in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert sorted(ids(path)) == ["r-0", "r-1", "r-2", "r-3"]


# what happens when it cannot be written


@pytest.mark.parametrize("how", ["limit", pytest.param("tmpfs", marks=pytest.mark.root)])
def test_a_full_disk_loses_nothing_that_was_taken_and_takes_nothing_beyond_the_cap(how: str, tmp_path: Path) -> None:
    if how == "tmpfs" and os.geteuid() != 0:
        pytest.skip("mounting needs root")
    child = subprocess.run(
        [sys.executable, ROOT / "tests/support/full_disk.py", how, tmp_path], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == {
        "before": True,
        "while_full": "failing",
        "after": True,
        "unwritten": 0,
        "states": ["failing", "ok"],
        "complete_and_in_order": True,
        "more_than_the_cap": True,
        "confessed": ["7 records could not be kept; what they were about was refused"],
    }


def test_a_file_that_is_moved_away_is_made_anew_and_nothing_goes_into_the_old_one(tmp_path: Path) -> None:
    path, moved = tmp_path / "audit.db", tmp_path / "moved.db"
    log = store.Store(path, now=NOW)
    log.append(a_record(1))
    assert log.flush()
    path.rename(moved)
    log.append(a_record(2))
    assert log.flush()
    assert log.close() == 0
    assert ids(path) == ["r-2"]
    assert "r-2" not in ids(moved)


def test_a_file_that_another_program_holds_is_failing_until_it_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_S", 0.05)
    states: list[str] = []
    log = store.Store(tmp_path / "audit.db", on_state=states.append, now=NOW)
    holder = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    log.append(a_record(1))
    until("the writer is so far", lambda: states == ["failing"])
    assert log.state == "failing"
    holder.execute("ROLLBACK")
    holder.close()
    until("the writer is so far", lambda: states == ["failing", "ok"])
    assert log.close() == 0
    assert ids(tmp_path / "audit.db") == ["r-1"]


def test_a_listener_that_raises_does_not_end_the_writer(tmp_path: Path) -> None:
    def listener(state: str) -> None:
        raise RuntimeError("Event loop is closed")

    log = store.Store(tmp_path / "audit.db", on_state=listener, now=NOW)
    log.append({**a_record(1), "detail": object()})  # cannot be written by any means: the state is failing
    until("the writer is so far", lambda: log.state == "failing")
    assert log.append(a_record(2))
    assert log.close() == 2


NO_RECORDS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no verdict": {**a_record(), "verdict": None},
    "a time that is text": {**a_record(), "time_ms": "now"},
    "a chain that is text": {**a_record(), "chain": "stripe"},
    "a chain of numbers": {**a_record(), "chain": [1]},
    "a principal that is a list": {**a_record(), "principal": []},
    "an id that is missing": {k: v for k, v in a_record().items() if k != "id"},
}


@pytest.mark.parametrize("one", NO_RECORDS.values(), ids=NO_RECORDS)
def test_what_is_no_record_is_not_taken_and_blocks_nothing_and_is_confessed(one: dict[str, Any], tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=NOW)
    assert log.append(one) is False
    assert log.append(a_record(2)) is True
    assert log.close() == 0
    found = list(store.read(tmp_path / "audit.db"))
    assert [r["reason"] for r in found] == ["bad_host", "audit_unavailable"]


# who may have it


def test_records_older_than_thirty_days_are_deleted_when_the_log_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    day_ms = 86_400_000
    log = store.Store(path, now=NOW)
    for number, age in enumerate([31, 30.001, 29.999, 0]):
        log.append(a_record(number, time_ms=int(NOW * 1000 - age * day_ms)))
    log.close()
    store.Store(path, now=NOW).close()
    assert ids(path) == ["r-2", "r-3"]


# reading


def test_the_default_place_follows_the_environment() -> None:
    places = {
        "named": ({"OUTPASS_STATE": "/x/a.db", "XDG_STATE_HOME": "/s", "HOME": "/h"}, "/x/a.db"),
        "the desktop's": ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/outpass/audit.db"),
        "a relative one is ignored, as the specification says": (
            {"XDG_STATE_HOME": "s", "HOME": "/h"},
            "/h/.local/state/outpass/audit.db",
        ),
        "home": ({"HOME": "/h"}, "/h/.local/state/outpass/audit.db"),
        "an empty name is none": ({"OUTPASS_STATE": "", "HOME": "/h"}, "/h/.local/state/outpass/audit.db"),
    }
    for env, place in places.values():
        assert store.default_path(env) == Path(place)


FILTERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing asked": ({}, ["r-1", "r-2", "r-3", "r-4", "r-5"]),
    "what was not allowed": ({"denied": True}, ["r-2", "r-3"]),
    "a package that is charged": ({"package": "stripe"}, ["r-1", "r-2"]),
    "a package further up": ({"package": "sqlalchemy"}, ["r-3"]),
    "a package as people write it": ({"package": "Google_Cloud.Storage"}, ["r-4"]),
    "a scoped npm package": ({"package": "@acme/http"}, ["r-5"]),
    "a program": ({"package": "exe:git"}, ["r-4"]),
    "part of a name is no name": ({"package": "strip"}, []),
    "a name that is SQL": ({"package": "' OR 1 --"}, []),
    "the newest two": ({"limit": 2}, ["r-4", "r-5"]),
    "the first two after one": ({"since_id": 1, "limit": 2}, ["r-2", "r-3"]),
    "everything after one": ({"since_id": 4}, ["r-5"]),
    "all at once": ({"denied": True, "package": "stripe", "limit": 1}, ["r-2"]),
}


@pytest.mark.parametrize("filters,found", FILTERS.values(), ids=FILTERS)
def test_reading_finds_what_was_asked_for(filters: dict[str, Any], found: list[str], tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=NOW)
    log.append(allowed(1, principal="stripe", chain=["stripe@11.4.0", "app"]))
    log.append(a_record(2, principal="stripe", chain=["stripe@11.4.0", "app"]))
    log.append(a_record(3, verdict="would_deny", principal="psycopg", chain=["psycopg@3.2", "sqlalchemy@2.0"]))
    log.append(allowed(4, principal="exe:git", chain=["exe:git", "google-cloud-storage@3.1.0"]))
    log.append(allowed(5, principal="@acme/http", chain=["@acme/http@2.0.0"]))
    log.close()
    assert ids(tmp_path / "audit.db", **filters) == found


def test_a_log_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert ids(tmp_path / "audit.db") == []
    assert store.newest(tmp_path / "audit.db") == 0
    (tmp_path / "audit.db").write_bytes(b"")
    assert ids(tmp_path / "audit.db") == []
    assert store.newest(tmp_path / "audit.db") == 0


def test_following_shows_each_record_once_also_over_an_exchange_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    log = store.Store(path, now=NOW)
    log.append(a_record(1))
    log.flush()
    steps = iter([
        lambda: None,
        lambda: [log.append(allowed(2)), log.append(a_record(3))],
        lambda: log.append(a_record(4)),
        lambda: path.rename(tmp_path / "old.db"),
        lambda: log.append(a_record(5)),
    ])  # fmt: skip

    def wait() -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()
        log.flush()

    seen: list[str] = []
    followed = store.follow(path, denied=True, since_id=store.newest(path), wait=wait)
    with pytest.raises(KeyboardInterrupt):
        seen.extend(found["id"] for found in followed)
    log.close()
    assert seen == ["r-3", "r-4", "r-5"]


def test_a_summary_counts_one_jail_only(tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=NOW)
    log.append(allowed(1))
    log.append(a_record(2, add="stripe: …"))
    log.append(a_record(3, add="stripe: …"))
    log.append(a_record(4, verdict="would_deny", host="h"))
    log.append(allowed(5, jail="j-2"))
    log.append({**allowed(6), "kind": "fault"})
    told = log.summary("j-1")
    counted = {name: told[name] for name in ("decisions", "allowed", "denied", "would_deny", "faults", "lines")}
    assert counted == {"decisions": 4, "allowed": 1, "denied": 2, "would_deny": 1, "faults": 1, "lines": ["stripe: …"]}
    assert [one["count"] for one in told["denials"]] == [2, 1]
    assert log.summary("j-3")["decisions"] == 0
    log.close()


def test_a_summary_counts_what_still_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_S", 0.05)
    log = store.Store(tmp_path / "audit.db", now=NOW)
    log.append(a_record(1))
    log.flush()
    holder = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    log.append(a_record(2))
    until("the writer is so far", lambda: log.state == "failing")
    assert log.summary("j-1")["denied"] == 2
    holder.close()
    assert log.close() == 0
