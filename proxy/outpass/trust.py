"""Which discovered policies the operator has agreed to, by digest.

Lives here: the store of digests. May not live here: reading policies (files.py gathers what a digest covers). A policy that
lies in a project was written by whoever wrote the project; it counts only after `outpass trust`, and until it changes.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from outpass.errors import UsageError


def recorded(path: Path, *, env: Mapping[str, str]) -> str | None:
    """The digest under which a file was trusted, or None. Raises UsageError when there is no place for the store."""
    return _read(_store(env)).get(os.path.realpath(path))


def record(path: Path, digest: str, *, env: Mapping[str, str]) -> None:
    """Trusts a file under a digest, in place of any older one. Raises UsageError when the store cannot be written."""
    store = _store(env)
    try:
        store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(store, {**_read(store), os.path.realpath(path): digest})
    except OSError as problem:
        raise UsageError(f"{store} cannot be written: {(problem.strerror or str(problem)).lower()}") from None


def _store(env: Mapping[str, str]) -> Path:
    home = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else "")
    if not home.startswith("/"):
        raise UsageError("there is no place for what is trusted: neither XDG_CONFIG_HOME nor HOME is set", "set HOME")
    return Path(home) / "outpass" / "trusted"


def _read(store: Path) -> dict[str, str]:
    """The store; empty unless it belongs to this user and nobody else may write it."""
    try:
        with store.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
                return {}
            data = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in data.items() if isinstance(v, str)} if isinstance(data, dict) else {}


def _write(store: Path, trusted: dict[str, str]) -> None:
    """Whole or not at all, 0600 from the first byte."""
    handle, name = tempfile.mkstemp(dir=store.parent, prefix=".trusted-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(trusted, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, store)
    except BaseException:
        os.unlink(name)
        raise
