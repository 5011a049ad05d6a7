"""Reading the audit log: by package, by verdict, by run, and as it grows.

Lives here: queries and following. May not live here: writing (store.py), words and colours (export.py, cli/).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from outpass.audit import database
from outpass.audit.record import readable
from outpass.errors import StartError

_COUNTS: Final = "SELECT kind, verdict, count(*) FROM records WHERE jail = ? GROUP BY kind, verdict"
_DENIALS: Final = "SELECT body FROM records WHERE jail = ? AND verdict <> 'allow' ORDER BY row LIMIT ?"


def rows(
    path: Path,
    *,
    denied: bool = False,
    package: str | None = None,
    since_id: int | None = None,
    limit: int | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, record), oldest first: the newest `limit`, or with `since_id` (a row) the first `limit` after it.

    `denied` means everything that is not `allow`; `package` stands anywhere in the chain. A file that does not exist has
    no records. Raises StartError for one that is no audit log.
    """
    if not path.exists():
        return
    # NOTE: only constants are put together; what a person typed is bound.
    where, values = _where(denied, package)
    count = -1 if limit is None else limit
    if since_id is None:
        query = f"SELECT * FROM (SELECT row, body FROM records {where} ORDER BY row DESC LIMIT ?) ORDER BY row"  # noqa: S608
    else:
        where, values = f"{where} AND row > ?", [*values, since_id]
        query = f"SELECT row, body FROM records {where} ORDER BY row LIMIT ?"  # noqa: S608
    with database.open_for_reading(path) as db:
        for row, body in db.execute(query, [*values, count]) if db else ():
            yield row, json.loads(body)


def read(
    path: Path,
    *,
    denied: bool = False,
    package: str | None = None,
    since_id: int | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The records of `rows`, without their row numbers."""
    for _, record in rows(path, denied=denied, package=package, since_id=since_id, limit=limit):
        yield record


def newest(path: Path) -> int:
    """Row of the newest record, 0 if there is none: where `follow` starts."""
    if not path.exists():
        return 0
    with database.open_for_reading(path) as db:
        return int(db.execute("SELECT coalesce(max(row), 0) FROM records").fetchone()[0]) if db else 0


def follow(
    path: Path, *, denied: bool = False, package: str | None = None, since_id: int, wait: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Every record after row `since_id`, for ever; `wait` is called before each look. Survives the file's exchange."""
    last, file = since_id, inode(path)
    while True:
        wait()
        if (now := inode(path)) != file:
            last, file = 0, now
        top = newest(path)
        if top > last:
            # A list, so that no read transaction stays open while the reader prints: it would hold up checkpoints.
            for row, record in list(rows(path, denied=denied, package=package, since_id=last)):
                top = max(top, row)
                yield record
            last = top


def _where(denied: bool, package: str | None) -> tuple[str, list[Any]]:
    """The condition and its values; the package also in its normal form (PEP 503), as people write Django_Foo."""
    parts: list[str] = ["1"]
    values: list[Any] = []
    if denied:
        parts.append("verdict <> 'allow'")
    if package is not None:
        normal = "-".join(filter(None, package.lower().replace("_", "-").replace(".", "-").split("-")))
        parts.append("(instr(names, ?) OR instr(names, ?))")
        values += [f" {readable(package)} ", f" {normal} "]
    return "WHERE " + " AND ".join(parts), values


def of_jail(path: Path, jail: str, *, limit: int) -> tuple[Counter[tuple[str, str]], list[dict[str, Any]]]:
    """Counts by (kind, verdict), and the first `limit` records of what was not allowed."""
    counts = Counter[tuple[str, str]]()
    denials: list[dict[str, Any]] = []
    try:
        with database.open_for_reading(path) as db:
            if db is not None:
                for kind, verdict, count in db.execute(_COUNTS, [jail]):
                    counts[kind, verdict] = count
                denials = [json.loads(body) for (body,) in db.execute(_DENIALS, [jail, limit])]
    except StartError:
        pass  # the file went away; what waits in memory is counted all the same
    return counts, denials


def inode(path: Path) -> tuple[int, int] | None:
    """Which file is at `path` now; None for none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
