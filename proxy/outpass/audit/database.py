"""The audit log's file: who may own it, what tables it holds, what is too old for it.

Lives here: opening for writing and for reading, the schema, pruning, and every StartError that a file can give. May not
live here: threads, batches, retries (store.py).
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from outpass.errors import StartError

APPLICATION: Final = 0x6F757470
"""SQLite's application_id of our files, `outp`."""
SCHEMA: Final = 1
"""SQLite's user_version. A newer one is refused: this outpass would not know what it means."""
KEEP_DAYS: Final = 30
OPEN_S: Final = 5.0
"""Seconds to wait at the start for another program that holds the file."""
_PRUNED_AT_ONCE: Final = 5_000

_TABLES: Final = """
CREATE TABLE records (
    row INTEGER PRIMARY KEY AUTOINCREMENT,  -- rises in the order of commits: what --follow resumes from
    id TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    verdict TEXT NOT NULL,
    jail TEXT,
    names TEXT NOT NULL,  -- principal and chain without versions, each between two spaces
    body TEXT NOT NULL
);
CREATE INDEX records_by_time ON records (time_ms);
CREATE INDEX records_by_jail ON records (jail, kind, verdict);
CREATE INDEX records_denied ON records (row) WHERE verdict <> 'allow';
"""


def open_for_writing(path: Path, *, busy_s: float, now: float | None = None) -> sqlite3.Connection:
    """The file at `path`, made if there is none, pruned by the clock `now` (seconds) unless that is None.

    0600 in a directory that is made 0700; later lock waits last `busy_s` seconds. The connection may be used by one thread
    after another. Raises StartError for whatever cannot be an audit log, sqlite3.Error or OSError for a full disk.
    """
    with _clear(path):
        _make_private(path)
        db = sqlite3.connect(path, timeout=OPEN_S, isolation_level=None, check_same_thread=False)
        try:
            if not _empty(db):
                _recognise(db, path)  # before anything is changed in it
            _enter_wal(db)
            # WAL with NORMAL: a commit survives the death of the process, not always that of the machine. FULL costs an
            # fsync for each denial, which a hostile package could use as a brake.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 16777216")
            _adopt(db, path)
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                path.chmod(0o600)
            if now is not None:
                _prune(db, int((now - KEEP_DAYS * 86_400) * 1000))
            db.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")
        except BaseException:
            db.close()
            raise
        return db


@contextmanager
def open_for_reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """The file at `path`, read-only; None while it is empty, as between its creation and its first commit.

    Raises StartError if it is none of ours. The caller knows that it exists.
    """
    with _clear(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=OPEN_S, isolation_level=None)
        try:
            if _empty(db):
                yield None
            else:
                _recognise(db, path)
                yield db
        finally:
            db.close()


@contextmanager
def _clear(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system say into what a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        # NOTE: the low byte is the primary code; the rest only says where it happened.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB or code == sqlite3.SQLITE_CORRUPT:
            raise StartError(
                f"the audit log {path} is damaged or is no SQLite database",
                "move it away and start again; outpass never repairs or replaces a log by itself",
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StartError(f"the audit log {path} is locked by another program", "end it, or set OUTPASS_STATE") from error
        raise StartError(f"the audit log {path} cannot be used: {error}", "free space there, or set OUTPASS_STATE") from error
    except OSError as error:
        raise StartError(
            f"the audit log {path} cannot be opened: {error.strerror or error}", "set OUTPASS_STATE to a file of your own"
        ) from error


def _make_private(path: Path) -> None:
    """A new file that nobody else can read, or an existing one that is ours; in either case none that others exchange."""
    if not path.parent.exists():
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
    folder = path.parent.stat()
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise StartError(f"everybody may write to {path.parent}, where the audit log is", f"chmod o-w {path.parent}")
    try:
        # O_EXCL so that SQLite never creates it: it would do so with the umask's mode, for others to open in between.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        # NOTE: never opened here: closing a second descriptor would drop the POSIX locks that SQLite holds on the first.
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise StartError(f"the audit log {path} is not a regular file", "set OUTPASS_STATE to another place") from None
        if found.st_uid != os.geteuid():
            raise StartError(f"the audit log {path} belongs to another user", "set OUTPASS_STATE to a file of your own") from None


def _enter_wal(db: sqlite3.Connection) -> None:
    """WAL mode. SQLite does not wait for a lock here as it does elsewhere, so two first starts at once need this loop."""
    end = time.monotonic() + OPEN_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _adopt(db: sqlite3.Connection, path: Path) -> None:
    """Makes the tables in an empty database; refuses any that is not empty and not ours."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if _empty(db):
            for statement in _TABLES.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {SCHEMA}")
        _recognise(db, path)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _empty(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0 and _mark(db) == (0, 0)


def _mark(db: sqlite3.Connection) -> tuple[int, int]:
    return db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0]


def _recognise(db: sqlite3.Connection, path: Path) -> None:
    application, schema = _mark(db)
    if application != APPLICATION:
        raise StartError(f"{path} is a database of another program, not an audit log", "set OUTPASS_STATE to another file")
    if schema != SCHEMA:
        raise StartError(f"the audit log {path} was written by a newer outpass (schema {schema})", "upgrade outpass")


def _prune(db: sqlite3.Connection, before_ms: int) -> None:
    """Deletes what is older, a few thousand records at a time, so that other daemons can write in between."""
    statement = "DELETE FROM records WHERE row IN (SELECT row FROM records WHERE time_ms < ? LIMIT ?)"
    while db.execute(statement, (before_ms, _PRUNED_AT_ONCE)).rowcount == _PRUNED_AT_ONCE:
        pass
