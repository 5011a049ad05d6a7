"""The audit log in use: one writer thread per process, any number of readers.

Lives here: queueing, batches, what happens while the disk is full. May not live here: what a record says (record.py),
what the file is (database.py), reading it (query.py, re-exported here), how a record is shown (export.py), who must refuse
when nothing can be recorded (broker/, gate/).

The order of trouble: a write fails → the records stay in memory, on_state("failing"), a retry each half second → the
disk is back → on_state("ok"). With CAP records in memory `append` answers False, and the caller must refuse what it
would have recorded. A broken file at the start is a StartError.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from outpass.audit import database, export
from outpass.audit import record as records
from outpass.audit.query import follow, inode, newest, of_jail, read, rows
from outpass.reasons import Reason

__all__ = ["State", "Store", "default_path", "follow", "newest", "read", "rows"]

State = Literal["ok", "failing"]
Record = Mapping[str, Any]

CAP: Final = 10_000
"""Records that wait in memory at most, about 15 MB; one more is refused."""
BATCH: Final = 100
"""Records in one commit at most."""
DELAY_S: Final = 0.05
"""Seconds that the record of something allowed waits for company at most."""
RETRY_S: Final = 0.5
"""Seconds between two tries while writing fails."""
BUSY_S: Final = 2.0
"""Seconds that another program may hold the file before that counts as a failed write."""

_INSERT: Final = "INSERT INTO records (id, time_ms, kind, verdict, jail, names, body) VALUES (?, ?, ?, ?, ?, ?, ?)"


def default_path(env: Mapping[str, str]) -> Path:
    """$OUTPASS_STATE, else `outpass/audit.db` in $XDG_STATE_HOME, else in ~/.local/state."""
    if chosen := env.get("OUTPASS_STATE"):
        return Path(chosen)
    base = env.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):  # the XDG specification: relative paths are to be ignored
        base = str(Path(env.get("HOME") or Path.home()) / ".local/state")
    return Path(base) / "outpass" / "audit.db"


class Store:
    """Takes records from any thread in a microsecond, and writes them in order in its own."""

    def __init__(self, path: Path, *, on_state: Callable[[State], None] | None = None, now: float | None = None) -> None:
        """Opens (makes, prunes by the clock `now`, default the system's) the file and starts the thread.

        `on_state` is called from that thread. Raises StartError when `path` cannot be an audit log.
        """
        self.path = path
        self._on_state = on_state or (lambda state: None)
        self._db: sqlite3.Connection | None = database.open_for_writing(
            path, busy_s=BUSY_S, now=time.time() if now is None else now
        )
        self._inode = inode(path)
        self._wake = threading.Condition()
        self._waiting: deque[Record] = deque()
        self._state: State = "ok"
        self._urgent = self._closing = False
        self._written = self._taken = self._refused = 0
        self._thread = threading.Thread(target=self._run, name="outpass-audit", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """`failing` from the first write that fails to the first that works again."""
        return self._state

    def append(self, record: Record) -> bool:
        """Take one record. False when it is not kept: refuse what it would have recorded.

        That is when CAP wait already, after `close`, and for what is no record: one that could never be written (a gate
        that was taken over could send it) would block all that come after it.
        """
        with self._wake:
            if self._closing or len(self._waiting) >= CAP or not _is_record(record):
                self._refused += 1
                return False
            self._waiting.append(record)
            self._taken += 1
            urgent = record["verdict"] != "allow"
            self._urgent |= urgent
            # The thread sleeps without a limit only while nothing waits; after the first it wakes by itself in time.
            if urgent or len(self._waiting) in (1, BATCH):
                self._wake.notify_all()
        return True

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything taken so far is committed; False when it is not within `timeout_s`."""
        with self._wake:
            goal = self._taken
            self._urgent = True
            self._wake.notify_all()
            return self._wake.wait_for(lambda: self._written >= goal, timeout_s)

    def close(self) -> int:
        """Write what waits, end the thread, close the file. Returns how many records could not be written (0)."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()
        return len(self._waiting)

    def summary(self, jail: str) -> dict[str, Any]:
        """What `jail` did, counted over what is on disk and what waits; see `export.summary` for the shape."""
        self.flush(5.0 if self._state == "ok" else 0.0)
        with self._wake:
            waiting = {r["id"]: r for r in self._waiting if r["jail"] == jail}
        counts, denials = of_jail(self.path, jail, limit=CAP)
        for record in waiting.values():
            counts[record["kind"], record["verdict"]] += 1
        return export.summary(counts, [*denials, *(r for r in waiting.values() if r["verdict"] != "allow")])

    def _run(self) -> None:
        """The writer: wait for company, write, and on failure wait and try again. Ends when closed and empty."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closing)
                self._wake.wait_for(lambda: self._urgent or self._closing or len(self._waiting) >= BATCH, DELAY_S)
                batch = list(islice(self._waiting, BATCH))
                self._urgent &= len(batch) < len(self._waiting)
                closing = self._closing
            if not batch:
                break
            if self._write(batch):
                with self._wake:
                    for _ in batch:
                        self._waiting.popleft()
                    self._written += len(batch)
                    if self._refused:
                        self._waiting.append(_lost(self._refused))
                        self._taken += 1
                        self._refused = 0
                    self._wake.notify_all()
                self._enter("ok")
            elif closing:
                break
            else:
                self._enter("failing")
                with self._wake:
                    self._urgent = True
                    self._wake.wait_for(lambda: self._closing, RETRY_S)
        self._drop()

    def _write(self, batch: list[Record]) -> bool:
        """One commit, all or nothing, in the file that is at `path` now."""
        try:
            if self._db is None or inode(self.path) != self._inode:
                # After a failure, or when somebody moved the file away: records must not go into a file without a name.
                self._drop()
                self._db = database.open_for_writing(self.path, busy_s=BUSY_S)
                self._inode = inode(self.path)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_INSERT, map(_row, batch))
            self._db.execute("COMMIT")
        except Exception:
            # Whatever it was: these records are not on disk, so the state is `failing` until they are.
            self._drop()
            return False
        return True

    def _drop(self) -> None:
        """Let go of the connection, which rolls back; a full disk may fail even that, and it is closed all the same."""
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except sqlite3.Error:
                pass

    def _enter(self, state: State) -> None:
        """Tell about a change, once. A listener that is gone (its event loop has ended) must not end the writer."""
        if state != self._state:
            self._state = state
            try:
                self._on_state(state)
            except Exception:  # noqa: S110
                pass


def _is_record(record: Record) -> bool:
    """Whether the fields that the table needs are there and of their type."""
    get = record.get
    chain, principal, jail = get("chain"), get("principal"), get("jail")
    return (
        type(get("id")) is str
        and type(get("time_ms")) is int
        and type(get("kind")) is str
        and type(get("verdict")) is str
        and (principal is None or type(principal) is str)
        and (jail is None or type(jail) is str)
        and type(chain) is list
        and all(type(entry) is str for entry in chain)
    )


def _row(record: Record) -> tuple[Any, ...]:
    names = {record["principal"] or "-"}
    for entry in record["chain"]:
        at = entry.find("@", 1)
        names.add(entry if at < 0 else entry[:at])
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    shown = f" {'  '.join(sorted(names))} "
    return record["id"], record["time_ms"], record["kind"], record["verdict"], record["jail"], shown, body


def _lost(count: int) -> Record:
    """The log's own confession."""
    now = time.time_ns() // 1_000_000
    return records.refusal(
        Reason.AUDIT_UNAVAILABLE,
        kind="fault",
        id=f"lost-{now}",
        time_ms=now,
        jail="",
        source="broker",
        status=None,
        detail=f"{count} records could not be kept; what they were about was refused",
    )
