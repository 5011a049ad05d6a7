"""A program whose audit log runs out of room and gets it back; run by tests/unit/audit/test_store.py as a child process.

Lives here: two real ways to run out: `limit` (RLIMIT_FSIZE, needs no rights) and `tmpfs` (a 64 MiB file system in a private
mount namespace, needs root). Prints what happened as one JSON object. May not live here: assertions.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from outpass.audit import record, store
from outpass.reasons import Reason

CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | 0x40000


def a_record(number: int) -> dict[str, object]:
    return record.refusal(
        Reason.BAD_HOST, id=f"r-{number}", time_ms=time.time_ns() // 10**6, jail="j", source="gate", status=400, detail="x" * 200
    )


def until(what: str, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"gave up waiting: {what}")
        time.sleep(0.01)


def take_room(how: str, folder: Path) -> None:
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        return
    with (folder / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass


def give_room(how: str, folder: Path) -> None:
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        (folder / "filler").unlink()


def private_tmpfs(folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC_PRIVATE, None)
    if failed or libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=64m"):
        raise SystemExit(f"no private tmpfs: {os.strerror(ctypes.get_errno())}")


def main(how: str, folder: Path) -> None:
    if how == "tmpfs":
        private_tmpfs(folder)
    states: list[str] = []
    log = store.Store(folder / "audit.db", on_state=states.append)
    kept = 0

    def offer() -> bool:
        nonlocal kept
        taken = log.append(a_record(kept))
        kept += taken
        return taken

    before = all(offer() for _ in range(50)) and log.flush()
    take_room(how, folder)
    until("the first failure", lambda: offer() and log.state == "failing")
    refused = 0
    while refused < 7:
        refused += not offer()
    while_full = log.state
    give_room(how, folder)
    until("the recovery", lambda: log.state == "ok")
    after = log.flush(30.0)
    unwritten = log.close()
    found = list(store.read(folder / "audit.db"))
    ids = [r["id"] for r in found if r["id"].startswith("r-")]
    told = {
        "before": before,
        "while_full": while_full,
        "after": after,
        "unwritten": unwritten,
        "states": states,
        "complete_and_in_order": ids == [f"r-{n}" for n in range(kept)],
        "more_than_the_cap": kept > store.CAP,
        "confessed": [r["detail"] for r in found if r["id"].startswith("lost-")],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
