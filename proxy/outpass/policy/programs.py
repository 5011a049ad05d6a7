"""Which program `exe:NAME` means: globs of files, scripts with their interpreters, and the rule where nothing is said.

Lives here: the grammar of `programs:` and the name of a running file. May not live here: finding out what runs
(broker/native.py), rights.

A file's path is a claim of whoever can write there: below a home directory that is the user, in the jail too, so a right of
`exe:NAME` is as good as the directories that its globs name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from outpass.policy.match import segments

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
SYSTEM: Final = ("/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/", "/usr/local/bin/", "/usr/local/sbin/")
"""Where a program that no alias covers may lie to be called by its file's name."""


def alias(text: str) -> str:
    """One entry of a `programs:` list in normal form: `GLOB`, or `GLOB SCRIPT-GLOB`. Raises ValueError (lower-case message).

    Globs are of absolute paths without symbolic links; `*` stays in one segment, `**` is any number of whole ones.
    """
    globs = text.split()
    if not 1 <= len(globs) <= 2:
        raise ValueError(f"{text!r} is not a path, nor an interpreter's path and a script's")
    for glob in globs:
        if not glob.startswith("/") or "//" in glob or glob.endswith("/"):
            raise ValueError(f"{glob!r} is not the absolute path of a file")
        if any(part in {".", ".."} or ("**" in part and part != "**") for part in glob.split("/")):
            raise ValueError(f"{glob!r}: a path has no dot segments, and ** is a whole one")
        directory, _, last = glob.rpartition("/")
        if last == "**" or (last == "*" and (f"{directory}/" in SYSTEM or directory.count("/") < 2)):
            raise ValueError(f"{glob!r} would name every program there")
    return " ".join(globs)


def principal(programs: Mapping[str, tuple[str, ...]], exe: str, script: str | None) -> str | None:
    """`exe:NAME` of the program file `exe` that runs `script`, both absolute and resolved; None for one without a name.

    A script's alias comes before its interpreter's. A file in a system directory is called by its own name, unless that
    name has an alias, which then says all that it means.
    """
    plain = None
    for name, globs in programs.items():
        for entry in globs:
            program, _, of_script = entry.partition(" ")
            if not _covers(program, exe):
                continue
            if of_script and script is not None and _covers(of_script, script):
                return f"exe:{name}"
            if not of_script:
                plain = plain or f"exe:{name}"
    if plain is not None:
        return plain
    directory, _, name = exe.rpartition("/")
    if f"{directory}/" in SYSTEM and NAME.fullmatch(name) and name not in programs:
        return f"exe:{name}"
    return None


def _covers(glob: str, path: str) -> bool:
    return segments(tuple(glob.split("/")[1:]), path.split("/")[1:])
