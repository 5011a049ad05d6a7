"""A record in the forms that readers want: one JSON line, a few lines for a person, a summary of a run.

Lives here: pure functions from records to text and to counts. May not live here: files, terminals, colour's escape
sequences (the caller paints), and raw text: what comes out of a record is harmless (record.py), and is made so again here
in case the file was written by somebody else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from outpass.audit.record import readable
from outpass.model import Verdict
from outpass.reasons import ENTRIES, Reason

Record = Mapping[str, Any]
Paint = Callable[[str, str], str]
"""(kind of text, text) → text: kinds are `allow`, `deny`, `would_deny`, `fault`, `faint`."""

LINES_MAX: Final = 50
"""Distinct denials in a summary."""
_INDENT: Final = " " * 10
_MAY: Final = {Verdict.ALLOW.value: "may", Verdict.WOULD_DENY.value: "was let through in audit mode, and may not"}
_UNCOUNTED: Final = frozenset({"fault", "close"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def json_line(record: Record) -> str:
    """The record itself on one line of ASCII, without line end: safe in any terminal, any locale, any log."""
    return json.dumps(record, ensure_ascii=True, separators=(",", ":"))


def destination(record: Record) -> str:
    """`POST https://api.stripe.com/v1/charges?a=…`, `tcp://db.internal:5432`, `api.stripe.com:443`, or `-`."""
    host, port, scheme = record.get("host"), record.get("port"), record.get("scheme")
    if not host:
        return "-"
    where = f"[{host}]" if ":" in host else str(host)
    if port is not None and port != _DEFAULT_PORTS.get(scheme or ""):
        where = f"{where}:{port}"
    url = f"{scheme}://{where}" if scheme else where
    method = record.get("method")
    return readable(f"{f'{method} ' if method else ''}{url}{record.get('path') or ''}{record.get('query') or ''}")


def package(record: Record) -> str:
    """`stripe@11.4.0`, `app`, or `-` where nobody is charged."""
    name, version = record.get("principal"), record.get("version")
    return readable(f"{name}@{version}" if name and version else name or "-")


def sentence(record: Record) -> str:
    """What was refused, to whom and why, in one line: package, destination, capability, chain, reason."""
    chain = " > ".join(record.get("chain") or ())
    asked = [part for part in (record.get("capability"), f"chain {chain}" if chain else None) if part]
    middle = f" ({', '.join(asked)})" if asked else ""
    if not record.get("principal"):
        return readable(f"a request to {destination(record)} was refused{middle}: {_why(record)}")
    may = _MAY.get(str(record.get("verdict")), "may not")
    return readable(f"{package(record)} {may} {_wish(record)}{middle}: {_why(record)}")


def _wish(record: Record) -> str:
    """What was wanted, as a person says it: `POST https://…`, `connect to db.internal:5432`, `look up evil.example`."""
    verb = _VERBS.get(str(record.get("scheme")))
    if verb is None:
        return destination(record) if record.get("method") else f"reach {destination(record)}"
    where = destination({**record, "scheme": None, "method": None})
    return f"{verb} {where.removesuffix(':53') if verb == 'look up' else where}"


_VERBS: Final = {"tcp": "connect to", "dns": "look up", "listen": "listen on"}


def day(record: Record, zone: tzinfo | None = UTC) -> str:
    """`2026-11-22`, in `zone` (None: the machine's)."""
    return f"{_when(record, zone):%Y-%m-%d}"


def lines(record: Record, *, width: int | None, zone: tzinfo | None, paint: Paint) -> Iterable[str]:
    """The record for a person: a table line (destination cut to `width` columns if given), then what explains a denial."""
    closed = record.get("kind") == "close"
    kind = "fault" if record.get("kind") == "fault" else "faint" if closed else str(record.get("verdict"))
    head = f"{_when(record, zone):%H:%M:%S}  "
    verdict = readable("closed" if closed else kind.replace("_", " ")).ljust(10)
    who = package(record)
    what = destination(record)
    room = None if width is None else max(width - len(head) - 12 - max(len(who), 22) - 2, 24)
    if room is not None and len(what) > room:
        what = what[: room - 1] + "…"
    yield f"{paint('faint', head)}{paint(kind, verdict)}  {who:<22}  {what}"
    if record.get("override") and record.get("dialled"):
        yield _INDENT + paint("faint", readable(f"dialled {record.get('dialled')}, as --connect-to says"))
    if "://" in str(record.get("dialled")):
        yield _INDENT + paint("faint", readable(f"through the upstream proxy {record.get('dialled')}, which resolves the name"))
    if closed and record.get("bytes_out") is not None:
        yield _INDENT + paint("faint", f"{record['bytes_out']} bytes out, {record.get('bytes_in')} in")
    elif kind != Verdict.ALLOW.value:
        for line in _explained(record):
            yield _INDENT + paint("faint", line)


def summary(counts: Mapping[tuple[str, str], int], denials: Iterable[Record]) -> dict[str, Any]:
    """Counts by (kind, verdict), and each distinct denial once, the first seen first.

    {"decisions", "allowed", "denied", "would_deny", "faults": numbers, "denials": [{"count", "say", "add"}, …], "lines":
    [the distinct lines to add]}. Faults are counted apart.
    """
    by_verdict = {v: sum(n for (kind, verdict), n in counts.items() if kind not in _UNCOUNTED and verdict == v) for v in Verdict}
    seen: dict[str, dict[str, Any]] = {}
    for record in denials:
        say = sentence(record)
        if say in seen:
            seen[say]["count"] += 1
        elif len(seen) < LINES_MAX:
            seen[say] = {"count": 1, "say": say, "add": record.get("add")}
    return {
        "decisions": sum(by_verdict.values()),
        "allowed": by_verdict[Verdict.ALLOW],
        "denied": by_verdict[Verdict.DENY],
        "would_deny": by_verdict[Verdict.WOULD_DENY],
        "faults": sum(n for (kind, _), n in counts.items() if kind == "fault"),
        "denials": list(seen.values()),
        "lines": list(dict.fromkeys(one["add"] for one in seen.values() if one["add"])),
    }


def _explained(record: Record) -> Iterable[str]:
    """Why, whose chain, which rule was nearest, and what to add: one thing a line."""
    yield readable(_why(record))
    if chain := record.get("chain"):
        yield readable(f"{record.get('capability')}, chain {' > '.join(chain)}")
    if rule := record.get("rule"):
        yield readable(f"rule {rule['file']}:{rule['line']}  {rule['text']}")
    if miss := record.get("miss"):
        yield readable(f"nearest {miss['rule']['file']}:{miss['rule']['line']}, but {miss['why']}")
    if detail := record.get("detail"):
        yield readable(detail)
    for number, line in enumerate((record.get("add") or "").splitlines()):
        yield f"{'add: ' if number == 0 else '     '}{readable(line)}"
    label, less = record.get("label"), record.get("degraded")
    without = f"degraded: {', '.join(map(str, less))}, " if isinstance(less, list) and less else ""
    yield readable(f"in {label}, {without}id {record.get('id')}" if label else f"{without}id {record.get('id')}")


def _why(record: Record) -> str:
    """`no_rule: no rule of the package covers this destination`; the code alone if it is newer than this program."""
    code = str(record.get("reason"))
    try:
        return f"{code}: {ENTRIES[Reason(code)].sentence}"
    except ValueError:
        return code


def _when(record: Record, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(record["time_ms"] / 1000, UTC).astimezone(zone)
