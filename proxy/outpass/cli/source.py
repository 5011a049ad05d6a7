"""Which policy a command line means.

Lives here: --policy, --allow, --deny-all, $OUTPASS_POLICY and discovery, turned into a Choice, and the trust check.
May not live here: reading policies (files.py, imported only where a file must be looked at: it costs 90 ms).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from outpass.errors import StartError, UsageError

if TYPE_CHECKING:
    from outpass.files import Loaded


class Choice(NamedTuple):
    """What the command line names: the fields of files.Source, and what `jail.open` sends."""

    file: Path | None
    allow: tuple[str, ...]
    deny_all: bool
    mode: str | None
    digest: str | None = None
    """The content of `file` that was found trusted; None where naming the file is trust enough."""

    def base(self) -> list[str]:
        """What a policy that is suggested after a run includes."""
        return [str(self.file)] if self.file else ["preset:http-clients", "preset:sdk-cores", "preset:instruments"]

    def message(self) -> dict[str, object]:
        """As the control protocol has it (proxy/README.md)."""
        return {**self._asdict(), "file": str(self.file) if self.file else None, "allow": list(self.allow)}


def here() -> Path:
    """The working directory. Raises UsageError when it was removed under us."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("the working directory does not exist any more", "change to one that does") from None


def chosen(
    policy: str | None, allow: tuple[str, ...], deny_all: bool, mode: str | None, env: Mapping[str, str], cwd: Path
) -> Choice:
    """The choice that these options make. Raises UsageError for two answers, StartError for none or an untrusted one."""
    given = [name for name, on in (("--policy", policy), ("--allow", allow), ("--deny-all", deny_all)) if on]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other", "keep one")
    if policy or allow or deny_all:
        return Choice(Path(os.path.abspath(policy)) if policy else None, allow, deny_all, mode)
    if named := env.get("OUTPASS_POLICY"):
        return Choice(Path(os.path.abspath(named)), (), False, mode)
    from outpass import files

    found = files.discover(cwd)
    if found is None:
        raise StartError(
            "no policy: neither --policy, --allow nor --deny-all was given, and there is no outpass.yaml here",
            "start with --deny-all and read what it says, or --audit --deny-all to let everything through and learn",
        )
    digest = files.trust_of(found, env=env)
    if digest is None:
        raise StartError(
            f"{found} was found in the project, and is not trusted",
            f"read it, then: outpass trust {found} (or name it with --policy {found})",
        )
    return Choice(found, (), False, mode, digest)


def policy_to_ask(policy: str | None) -> Loaded:
    """The policy that a command only asks: named, $OUTPASS_POLICY's, or discovered (reading needs no trust).

    Raises UsageError when there is none, PolicyError when it is not one.
    """
    from outpass import files

    if policy is None and "OUTPASS_POLICY" not in os.environ:
        found = files.discover(here())
        if found is None:
            raise UsageError("no policy to ask: there is no outpass.yaml here", "name one with --policy FILE")
        policy = str(found)
    try:
        return files.load(files.Source(*chosen(policy, (), False, None, os.environ, here())), env=os.environ)
    except StartError as problem:
        raise UsageError(problem.message, problem.hint) from None
