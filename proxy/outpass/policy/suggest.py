"""The line to add: the smallest piece of policy that would have allowed a denied request, as YAML to paste.

Lives here: text that is a valid include of its own once `version: 1` stands above it. May not live here: anything that adds
it: a person does. What it names is exact (this host, this method, this path); widening it is the person's decision.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from outpass.model import EgressRequest
from outpass.policy import addresses, names, pattern
from outpass.policy.compiled import Compiled
from outpass.policy.match import Anywhere
from outpass.policy.rules import KEYS

_BARE: Final = re.compile(r"[a-z][a-z0-9-]*[a-z0-9]")
_WORDS: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def lines(c: Compiled, request: EgressRequest, principals: list[str], path: str | None, private: str | None) -> str | None:
    """For each principal that lacks the right, the entry that would give it; None where no line could.

    `private`: an address that the rule must open as well.
    """
    if request.capability not in KEYS or not all(_nameable(p) for p in principals):
        return None
    key = KEYS[request.capability]
    entry = _entry(request, path, private)
    if entry is None:
        return None
    text = ["packages:"]
    for name in dict.fromkeys(principals):
        grants = c.grants.get(name)
        held = grants.lists.get(request.capability) if grants is not None else None
        text.append(f"  {_key(name)}:")
        if held is None:
            text.append(f"    allow: [{request.capability}]")
        elif isinstance(held, Anywhere):
            text.append(f"    # {name} had no {key}: list, so any public destination; with this list only what it names")
        text += [f"    {key}:", f"      - {entry}"]
    return "\n".join(text)


def document(found: Iterable[str], include: Sequence[str]) -> str:
    """A policy of all these `lines`, each entry once, over what it includes. Lines about a ceiling have no place in one."""
    packages: dict[str, dict[str, list[str]]] = {}
    for text in found:
        if not text.startswith("packages:"):
            continue
        entry: dict[str, list[str]] = {}
        key = ""
        for line in text.splitlines()[1:]:
            words = line.strip()
            if line.startswith("      - "):
                entry.setdefault(key, []).append(words.removeprefix("- "))
            elif words.startswith("allow: ["):
                entry.setdefault("allow", []).append(words.removeprefix("allow: [").removesuffix("]"))
            elif line.startswith("    ") and not words.startswith("#"):
                key = words.removesuffix(":")
            elif not line.startswith("    "):
                entry = packages.setdefault(words.removesuffix(":"), {})
    rows = ["version: 1", *(["include:", *(f"  - {json.dumps(item)}" for item in include)] if include else [])]
    rows += ["packages:"] if packages else []
    for name, entry in packages.items():
        rows.append(f"  {name}:")
        for key, items in entry.items():
            each = list(dict.fromkeys(items))
            rows += (
                [f"    allow: [{', '.join(each)}]"] if key == "allow" else [f"    {key}:", *(f"      - {item}" for item in each)]
            )
    return "\n".join(rows) + "\n"


def ceiling(request: EgressRequest, path: str | None) -> str | None:
    """The ceiling's missing entry."""
    entry = _entry(request, path, None)
    return None if entry is None else f"ceiling:\n  {KEYS[request.capability]}:\n    - {entry}"


def _nameable(name: str) -> bool:
    """Whether a policy can give rights to it: not to `?` or `!x`, nor to text that is no name at all."""
    try:
        return names.package(name) == name
    except ValueError:
        return False


def _entry(request: EgressRequest, path: str | None, private: str | None) -> str | None:
    """One list item, or None where the request cannot be written as a pattern (a method that is no token, a dns address)."""
    where = destination(request, path)
    method = request.method if path is not None else None
    try:
        pattern.PARSERS[KEYS[request.capability]](f"{method} {where}" if method else where)
    except pattern.PatternError:
        return None
    if private is None or request.host == private:
        return f'"{method} {where}"' if method else f'"{where}"'
    network = f"{private}/{128 if ':' in private else 32}"
    if request.capability == "network:socket":
        return f'{{to: "{where}", private: ["{network}"]}}'
    methods = f', methods: ["{method}"]' if method else ""
    return f'{{url: "{where}"{methods}, private: ["{network}"]}}'


def destination(request: EgressRequest, path: str | None) -> str:
    """The destination as a pattern that covers it: a URL, host:port, a name, or a port."""
    if request.scheme in names.DEFAULT_PORTS:
        shown = f"[{request.host}]" if ":" in request.host else request.host
        port = "" if request.port == names.DEFAULT_PORTS[request.scheme] else f":{request.port}"
        return f"{request.scheme}://{shown}{port}{_literal(path or '/')}"
    if request.scheme == "dns":
        return request.host
    if request.scheme == "listen":
        literal = addresses.is_literal(request.host)
        return names.format_authority(request.host, request.port) if literal else str(request.port)
    return f"{'udp://' if request.scheme == 'udp' else ''}{names.format_authority(request.host, request.port)}"


def _literal(path: str) -> str:
    """A path as a glob: a star in it can only be written as the star that stands for it."""
    return re.sub(r"\*+", "*", path)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) and name not in _WORDS else f'"{name}"'
