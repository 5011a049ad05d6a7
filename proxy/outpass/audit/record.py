"""One audit record, schema version 1: what a Decision, a refusal or a fault looks like when written down.

Lives here: the fields, what is redacted, what is cut, and how hostile text is made harmless. May not live here: clocks,
ids, files, terminals; README.md next to this file documents each field, and a test compares the two.

Everything from the jail (names, hosts, paths) is hostile: it may hold line ends that forge a second line (CWE-117), escape
sequences that a terminal obeys (CVE-2003-0063 and its kin) or bidirectional overrides that show another text than is
there (CVE-2021-42574). So every string in a record went through `readable` once, here, and no later reader can forget to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, overload

from outpass.model import Capability, Decision, Miss, RuleRef, Verdict
from outpass.reasons import Reason

VERSION: Final = 1
"""`v` of every record. Fields are added, never renamed or given another meaning, without a new number."""

Kind = Literal["decision", "fault", "refusal", "close"]
Source = Literal["gate", "broker"]

FIELDS: Final = (
    "v", "id", "time_ms", "kind", "source", "verdict", "reason", "status", "tier",
    "principal", "version", "chain", "capability",
    "scheme", "host", "port", "method", "path", "query", "addresses", "dialled", "override", "intercept",
    "rule", "miss", "add", "digest", "jail", "label", "sid", "peer", "detail",
    "degraded", "bytes_out", "bytes_in",
)  # fmt: skip
"""Every record has all of them, in this order; null where there is nothing to say. `dialled` is the connection in use, or
the address that is tried first: another of `addresses` may answer (RFC 8305), and `close` has that one."""

_MOVED: Final = FIELDS[-2:]
# Limits in characters. Together they keep the longest record, as ASCII JSON, below the 60 000 bytes of one packet to the
# broker. What the jail chose is cut to ASCII as well: names, hosts, methods and paths that are legal are ASCII anyway.
_NAME: Final = 128
_HOST: Final = 255  # RFC 1035, section 2.3.4
_PATH: Final = 2_048
_QUERY: Final = 1_024
_LINE: Final = 256
_CHAIN: Final = 65  # 64 and the `?` that says there were more
_ADDRESSES: Final = 16

# Printable by Unicode's book, yet drawn as nothing: fillers that pass for letters, selectors, the grapheme joiner.
_INVISIBLE: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def readable(text: str) -> str:
    """`text` with every character that a terminal, an editor or an eye could misread written as `\\xNN`, `\\uNNNN`.

    Idempotent, so that a reader who is not sure may call it again. Ordinary letters of any script stay.
    """
    if text.isascii() and text.isprintable():
        return text
    text = "".join([c if c.isprintable() else _escape(c) for c in text])
    return _INVISIBLE.sub(lambda m: _escape(m[0]), text)


def redacted(query: str) -> str:
    """`a=1&b=2` as `?a=…&b=…`: names stay, values do not, and a part without `=` is taken for a value."""
    parts = [part.partition("=") for part in query[: 8 * _QUERY].split("&")]
    shown = "&".join(f"{_ascii(name, 64)}=…" if equals else "…" for name, equals, _ in parts if name or equals)
    return _cut("?" + shown, _QUERY)


def decision(
    decision: Decision,
    *,
    kind: Kind = "decision",
    id: str,  # noqa: A002
    time_ms: int,
    jail: str,
    source: Source,
    status: int | None,
    sid: str | None,
    dialled: str | None,
    override: bool,
    query: str | None,
    label: str | None = None,
    peer: Mapping[str, Any] | None = None,
    moved: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The record of one decision, or of a fault after it, or of the end of an opaque tunnel (`kind`).

    `id` is unique and goes to the client in the refusal; `time_ms` is milliseconds since the epoch; `status` is the HTTP
    status that the client got, if it got one from us; `override`: `--connect-to` chose `dialled`; `query` is raw, without
    `?`; `label` names the jail as a person knows it; `moved` is (bytes out, bytes in) of a tunnel that has ended.
    """
    request = decision.request
    return {
        "v": VERSION,
        "id": _ascii(id, _NAME),
        "time_ms": time_ms,
        "kind": kind,
        "source": source,
        "verdict": decision.verdict.value,
        "reason": decision.reason.value,
        "status": status,
        "tier": request.tier,
        "principal": _ascii(decision.principal, _NAME),
        "version": _ascii(decision.version, 64),
        "chain": _chain(request.chain, request.versions),
        "capability": _ascii(request.capability, 64),
        "scheme": _ascii(request.scheme, 64),
        "host": _ascii(request.host, _HOST),
        "port": request.port,
        "method": _ascii(request.method, 64),
        "path": _ascii(request.path, _PATH),
        "query": None if query is None else redacted(query),
        "addresses": None if request.addresses is None else [_ascii(a, 64) for a in request.addresses[:_ADDRESSES]],
        "dialled": _ascii(dialled, _HOST),
        "override": override,
        "intercept": decision.intercept,
        "rule": _rule(decision.rule),
        "miss": _miss(decision.miss),
        "add": None if decision.add is None else _lines(decision.add),
        "digest": _ascii(decision.digest, 64),
        "jail": _ascii(jail, _NAME),
        "label": _text(label, _LINE),
        "sid": _ascii(sid, _NAME),
        "peer": _peer(peer),
        "detail": None,
        "degraded": None,  # the broker's to say, which knows how the jail was made (broker.ears)
        **dict(zip(_MOVED, moved or (None, None), strict=True)),
    }


def refusal(
    reason: Reason,
    *,
    kind: Kind = "refusal",
    id: str,  # noqa: A002
    time_ms: int,
    jail: str,
    source: Source,
    status: int | None,
    sid: str | None = None,
    capability: Capability | None = None,
    host: str | None = None,
    port: int | None = None,
    method: str | None = None,
    tier: str | None = None,
    detail: str | None = None,
    label: str | None = None,
    peer: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> dict[str, Any]:
    """The record of something refused before there was a request to decide: a bad pass, bad HTTP, a full disk.

    Nothing that the refused text claims is recorded as a fact: no principal, no chain. `host`, `port` and `method` only
    where they were read for certain (the CONNECT line under a bad pass); `detail` is one sentence for a person.
    """
    known: dict[str, Any] = {
        "v": VERSION,
        "id": _ascii(id, _NAME),
        "time_ms": time_ms,
        "kind": kind,
        "source": source,
        "verdict": Verdict.DENY.value,
        "reason": reason.value,
        "status": status,
        "tier": tier,
        "chain": [],
        "capability": None if capability is None else capability.value,
        "host": _ascii(host, _HOST),
        "port": port,
        "method": _ascii(method, 64),
        "override": False,
        "digest": _ascii(digest, 64),
        "jail": _ascii(jail, _NAME),
        "label": _text(label, _LINE),
        "sid": _ascii(sid, _NAME),
        "peer": _peer(peer),
        "detail": _text(detail, _LINE),
    }
    return {field: known.get(field) for field in FIELDS}


def _escape(c: str) -> str:
    """One character as Python would write it in a string: `\\x1b`, `\\u202e`, `\\U000e0100`."""
    n = ord(c)
    return f"\\x{n:02x}" if n < 0x100 else f"\\u{n:04x}" if n < 0x1_0000 else f"\\U{n:08x}"


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters; `…` at the end says that there were more."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


@overload
def _text(text: str, limit: int) -> str: ...
@overload
def _text(text: None, limit: int) -> None: ...
def _text(text: str | None, limit: int) -> str | None:
    """What the operator wrote, harmless and cut; cut before as well, so that a megabyte costs no more than the limit."""
    return None if text is None else _cut(readable(text[: limit + 1]), limit)


@overload
def _ascii(text: str, limit: int) -> str: ...
@overload
def _ascii(text: None, limit: int) -> None: ...
def _ascii(text: str | None, limit: int) -> str | None:
    """What the jail chose: as `_text`, and letters beyond ASCII written out."""
    if text is None or (len(text) <= limit and text.isascii() and text.isprintable()):
        return text  # nearly always
    shown = _text(text, limit)
    return _cut("".join([c if c.isascii() or c == "…" else _escape(c) for c in shown]), limit)


def _lines(text: str) -> str:
    """Text whose line ends are ours: each line harmless, the ends kept."""
    return _cut("\n".join(readable(line) for line in text[: 2 * _LINE + 1].split("\n")), 2 * _LINE)


def _chain(names: tuple[str, ...], versions: tuple[str | None, ...]) -> list[str]:
    """`name@version` strings, nearest first, as in the pass."""
    padded = (*versions, *(None,) * len(names))
    entries = (name if version is None else f"{name}@{version}" for name, version in zip(names, padded, strict=False))
    return [_ascii(entry, _NAME) for entry, _ in zip(entries, range(_CHAIN), strict=False)]


def _rule(rule: RuleRef | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    return {"file": _text(rule.file, _LINE), "line": rule.line, "text": _text(rule.text, _LINE)}


def _miss(miss: Miss | None) -> dict[str, Any] | None:
    return None if miss is None else {"rule": _rule(miss.rule), "why": _text(miss.why, _LINE)}


def _peer(peer: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Numbers as they are, anything else as harmless text."""
    if peer is None:
        return None
    return {
        _ascii(str(key), 64): value if type(value) is int else _ascii(str(value), _LINE) for key, value in list(peer.items())[:8]
    }
