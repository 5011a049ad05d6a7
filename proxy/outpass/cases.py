"""Case files: what a policy must answer, written down beside it, so that a change that was not meant is seen (`outpass test`).

Lives here: reading one, with the place of every fault. May not live here: judging (policy/), words (cli/test.py).

    policy: outpass.yaml                  # beside this file; --policy overrides it
    cases:
      - {who: "stripe@11.4.0 > app", asks: "POST https://api.stripe.com/v1/charges", gets: allow}
      - {who: left-pad, asks: "tcp://db.internal:5432", to: 10.0.0.1, at: 2027-06-30, gets: deny, because: no_rule}
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from outpass import yamldoc
from outpass.errors import Fault, Place, PolicyError, UsageError
from outpass.model import Verdict
from outpass.policy.document import Document, Items, Mapping
from outpass.reasons import Reason

_KEYS: Final = ("who", "asks", "to", "at", "gets", "because")
_NEEDED: Final = ("who", "asks", "gets")


class Case(NamedTuple):
    """One question and its answer."""

    place: Place
    who: str
    """A chain, nearest first: `stripe@11.4.0 > app`."""
    asks: str
    """`[METHOD] URL`, as `outpass explain` takes it."""
    to: tuple[str, ...] | None
    """What the name resolves to; None: not resolved."""
    at: float | None
    """Unix time of the question; None: now."""
    gets: Verdict
    because: Reason | None
    """None: whatever the reason."""


class CaseFile(NamedTuple):
    """A file of cases."""

    policy: Path | None
    cases: tuple[Case, ...]


def read(path: Path) -> CaseFile:
    """The cases in a file. Raises PolicyError with every fault at its place, UsageError when it cannot be read."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    document = yamldoc.document(str(path), raw)
    root, faults = document.root, list[Fault]()
    if not isinstance(root, Mapping) or not isinstance(root.get("cases"), Items):
        raise PolicyError((document.fault((), "a case file is a mapping with a list of cases"),))
    faults += [_unknown(document, (key,), key, ("policy", "cases")) for key in root if key not in ("policy", "cases")]
    listed = root["cases"]
    assert isinstance(listed, Items)
    cases = [_case(document, number, item, faults) for number, item in enumerate(listed)]
    if faults:
        raise PolicyError(tuple(faults))
    named = root.get("policy")
    return CaseFile(path.parent / str(named) if named is not None else None, tuple(c for c in cases if c is not None))


def _case(document: Document, number: int, item: object, faults: list[Fault]) -> Case | None:
    at = ("cases", number)
    if not isinstance(item, Mapping):
        faults.append(document.fault(at, "a case is a mapping", 'for example {who: app, asks: "GET https://…", gets: deny}'))
        return None
    before = len(faults)
    faults += [_unknown(document, (*at, key), key, _KEYS) for key in item if key not in _KEYS]
    faults += [document.fault(at, f"the case does not say {key!r}") for key in _NEEDED if key not in item]
    verdict = _one_of(document, (*at, "gets"), item.get("gets", "allow"), [v.value for v in Verdict], faults)
    because = item.get("because")
    if because is not None:
        _one_of(document, (*at, "because"), because, [r.value for r in Reason], faults)
    moment = None
    if "at" in item:
        try:
            moment = datetime.fromisoformat(str(item["at"])).replace(tzinfo=UTC).timestamp()
        except ValueError:
            faults.append(document.fault((*at, "at"), f"{item['at']!r} is not a date", "for example 2027-06-30"))
    if len(faults) > before:
        return None
    to = item.get("to")
    addresses = None if to is None else tuple(map(str, to)) if isinstance(to, Items) else (str(to),)
    reason = None if because is None else Reason(str(because))
    return Case(document.place(at), str(item["who"]), str(item["asks"]), addresses, moment, Verdict(verdict), reason)


def _unknown(document: Document, path: tuple[str | int, ...], key: str, known: tuple[str, ...]) -> Fault:
    return document.fault(path, f"unknown key {key!r}", f"known are {', '.join(known)}", key=True)


def _one_of(document: Document, path: tuple[str | int, ...], said: object, known: list[str], faults: list[Fault]) -> str:
    if said not in known:
        faults.append(document.fault(path, f"{said!r} is none of {', '.join(known)}"))
        return known[0]
    return str(said)
