"""A Decision in words: for a terminal, as JSON for tools, and as problem+json for the program that was refused.

Lives here: sentences. May not live here: deciding, colours, HTTP. What goes back into the jail says nothing about the host:
no resolved address, no directory, only the base name of a policy file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from outpass.model import Decision, RuleRef, Verdict
from outpass.policy import names, suggest
from outpass.policy.limits import Held
from outpass.reasons import ENTRIES, Reason

SCHEMA: Final = "outpass.explain/1"
_HOST_FACTS: Final = frozenset(
    {Reason.ADDRESS_PRIVATE, Reason.ADDRESS_LOOPBACK, Reason.ADDRESS_METADATA, Reason.ADDRESS_RESERVED}
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """`title` and `detail` are sentences in lower case without a full stop; `lines` is the whole story for a terminal."""

    decision: Decision
    title: str
    detail: str
    lines: list[str]
    limits: tuple[Held, ...] = ()
    """Those that hold for what was allowed."""

    def as_problem(self) -> dict[str, Any]:
        """RFC 9457 members, fit for the program that was refused (and so for whoever controls it)."""
        d = self.decision
        told: dict[str, Any] = {
            "type": f"urn:outpass:reason:{d.reason.value}",
            "title": self.title,
            "status": ENTRIES[d.reason].status,
            "detail": self.detail,
            "code": d.reason.value,
            **_facts(d),
        }
        if ENTRIES[d.reason].hint:
            told["hint"] = ENTRIES[d.reason].hint
        if d.rule is not None:
            told["rule"] = _rule(d.rule, inside=True)
        if d.miss is not None:
            told["miss"] = {"rule": _rule(d.miss.rule, inside=True), "why": plain(d.miss.why)}
        if d.add is not None and d.reason not in _HOST_FACTS:
            told["add"] = d.add
        return told

    def as_json(self) -> dict[str, Any]:
        """Everything, for the operator's tools; versioned by `schema`."""
        d = self.decision
        return {
            "schema": SCHEMA,
            "verdict": d.verdict.value,
            "reason": d.reason.value,
            "title": self.title,
            "detail": self.detail,
            "hint": ENTRIES[d.reason].hint,
            **_facts(d),
            "addresses": list(d.request.addresses) if d.request.addresses is not None else None,
            "rule": _rule(d.rule) if d.rule is not None else None,
            "miss": {"rule": _rule(d.miss.rule), "why": plain(d.miss.why)} if d.miss is not None else None,
            "add": d.add,
            "intercept": d.intercept,
            "limits": [{"owner": plain(h.owner), "text": h.limits.text, "rule": _rule(h.ref)} for h in self.limits],
            "tier": d.request.tier,
            "policy": d.digest,
        }


def explain(decision: Decision, limits: tuple[Held, ...] = ()) -> Explanation:
    """The words for a decision, allowed or not; `limits` are those that hold for it (limits.holding)."""
    who, what = label(decision.principal, decision.version), action(decision)
    entry = ENTRIES[decision.reason]
    if decision.verdict is Verdict.ALLOW:
        title = f"{who} may {what}"
    elif decision.verdict is Verdict.WOULD_DENY:
        title = f"{who} was let through in audit mode; it may not {what}"
    else:
        title = f"{who} may not {what}"
    detail = f"{title}: {entry.sentence}"
    told = [f"  limit:  {h.limits.text} ({plain(h.owner)}, {plain(str(h.ref))})" for h in limits]
    return Explanation(decision, title, detail, [*_lines(decision, title), *told], limits)


def label(name: str, version: str | None) -> str:
    """`stripe@11.4.0`; the special principals in words that need no manual."""
    said = {names.APP: "app (the application itself)", names.UNKNOWN: "? (code that outpass cannot name)"}.get(name)
    return said or plain(f"{name}@{version}" if version else name)


def chain_text(decision: Decision) -> str:
    """The chain, nearest first: `stripe@11.4.0 > app`."""
    chain, versions = decision.request.chain or (names.UNKNOWN,), decision.request.versions
    padded = (*versions, *(None for _ in range(len(chain) - len(versions))))
    return plain(" > ".join(f"{n}@{v}" if v else n for n, v in zip(chain, padded, strict=False)))


def action(decision: Decision) -> str:
    """What was asked for: `POST https://api.stripe.com/v1/charges (network:http)`, `connect to db.internal:5432 (…)`."""
    r = decision.request
    verb = r.method if r.method and r.path is not None else _VERBS.get(r.scheme, "reach")
    return plain(f"{verb} {_shown(decision)} ({r.capability})")


_VERBS: Final = {"tcp": "connect to", "udp": "send to", "dns": "query", "listen": "listen on"}


def _shown(decision: Decision) -> str:
    """The destination as asked for; the raw path, since one that cannot be judged has no normal form."""
    r = decision.request
    base = suggest.destination(r._replace(path=None), None)
    return base.removesuffix("/") + r.path if r.scheme in names.DEFAULT_PORTS and r.path is not None else base


def plain(text: str) -> str:
    """Text that cannot move a cursor, colour a terminal or reverse a line, whoever chose it."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    )


def _facts(d: Decision) -> dict[str, Any]:
    return {
        "package": plain(d.principal),
        "version": plain(d.version) if d.version else None,
        "capability": plain(d.request.capability),
        "destination": plain(_shown(d)),
        "method": plain(d.request.method) if d.request.method else None,
        "chain": chain_text(d),
    }


def _rule(rule: RuleRef, *, inside: bool = False) -> dict[str, Any]:
    file = rule.file.rpartition("/")[2] if inside else rule.file
    return {"file": plain(file), "line": rule.line, "text": plain(rule.text)}


def _lines(d: Decision, title: str) -> list[str]:
    entry = ENTRIES[d.reason]
    told = [f"{d.verdict.value}: {title}", f"  chain:  {chain_text(d)}", f"  reason: {d.reason.value}: {entry.sentence}"]
    if d.rule is not None:
        told.append(f"  rule:   {plain(str(d.rule))}: {plain(d.rule.text)}")
    if d.request.addresses and d.reason in _HOST_FACTS:
        told.append(f"  address: {plain(', '.join(d.request.addresses))}")
    if d.miss is not None:
        told.append(f"  nearest: {plain(str(d.miss.rule))}: {plain(d.miss.rule.text)}")
        told.append(f"           {plain(d.miss.why)}")
    if d.add is not None:
        told.append("  add:")
        told += [f"    {line}" for line in d.add.splitlines()]
    elif d.verdict is not Verdict.ALLOW and entry.hint:
        told.append(f"  hint:   {entry.hint}")
    return told
