"""Alleged policy documents become one Policy, or every fault in them, each at file:line:column.

Lives here: what keys and values mean, and the faults in a person's words. May not live here: the shape (shape.py), pattern
grammar (pattern.py), how files combine (layer.py), reading files (files.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from outpass.errors import Fault, PolicyError
from outpass.policy import shape
from outpass.policy.document import Document, Items, Mapping
from outpass.policy.entries import Reader
from outpass.policy.layer import Layer, unite
from outpass.policy.rules import Policy

Path = tuple[str | int, ...]

NOT_BUILT: Final[dict[str, tuple[str, str]]] = {
    "secrets": (
        "secrets: is not built yet, so a policy that relies on it is refused",
        "remove it; keep the key in the program for now",
    ),
    "inject": (
        "inject: is not built yet, so a policy that relies on it is refused",
        "remove it; keep the key in the program for now",
    ),
}
_ENTRIES: Final[dict[str, tuple[type[BaseModel], type[BaseModel]]]] = {
    "http": (shape.HttpRule, shape.HttpDeny),
    "fetch": (shape.HttpRule, shape.HttpDeny),
    "socket": (shape.SocketRule, shape.SocketDeny),
    "dns": (shape.DnsRule, shape.DnsDeny),
    "listen": (shape.ListenRule, shape.ListenDeny),
}


def parse(documents: Sequence[Document]) -> Policy:
    """One policy from documents, the root first, then what it includes. Raises PolicyError with every fault."""
    faults: list[Fault] = []
    layers = [layer for d in documents if (layer := _layer(d, faults)) is not None]
    if faults:
        raise PolicyError(tuple(faults))
    return unite(layers)


def _layer(document: Document, faults: list[Fault]) -> Layer | None:
    root = document.root
    if root is None or (isinstance(root, Mapping) and not root):
        faults.append(
            document.fault((), "the policy is empty", "start it with version: 1; a policy that denies everything says no more")
        )
        return None
    if not isinstance(root, Mapping):
        faults.append(document.fault((), f"a policy is a mapping, not {_kind(root)}", "start it with version: 1"))
        return None
    try:
        checked = shape.PolicyFile.model_validate(root)
    except ValidationError as problem:
        found = [_fault(document, e) for e in problem.errors(include_url=False, include_context=True)]
        faults.extend(sorted(dict.fromkeys(found), key=lambda f: (f.place.line, f.place.column)))
        return None
    reader = Reader(document, faults)
    return Layer(
        file=document.file,
        mode=checked.mode if "mode" in checked.model_fields_set else "",
        transparent=reader.transparent(checked.transparent),
        instruments=reader.instruments(checked.instruments),
        ceiling=reader.ceiling(checked.ceiling) if "ceiling" in checked.model_fields_set else None,
        packages=reader.packages(checked.packages),
        programs=reader.programs(checked.programs),
    )


def _kind(value: object) -> str:
    """What a YAML value is, in a person's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else f"the text {str(value)[:60]!r}"


def _fault(document: Document, error: ErrorDetails) -> Fault:
    """One pydantic error as a person reads it: where, what, and what would be right."""
    path = _path(document, error["loc"])
    kind, name, value = error["type"], str(path[-1]) if path else "policy", error["input"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind == "extra_forbidden":
        return document.fault(path, *_unknown(path), key=True)
    if kind == "missing":
        return document.fault(path[:-1], f"{name}: is missing", f"add {name}: …" if name != "version" else "add version: 1")
    if value is None:
        return document.fault(
            path, f"{_label(path)} is empty", "remove the key, or write a value ([] for an empty list)", key=True
        )
    if kind == "literal_error" and name == "version":
        return document.fault(path, f"version {value!r} is not one that this outpass knows", "write version: 1")
    if kind == "literal_error":
        options = [o.strip("'") for o in str(context.get("expected", "")).replace(" or ", ", ").split(", ")]
        return document.fault(path, f"{value!r} is not one of {', '.join(options)}", _did_you_mean(str(value), options))
    wanted = {"string_type": "text", "int_type": "a whole number", "bool_type": "true or false", "list_type": "a list",
              "model_type": "a mapping", "dict_type": "a mapping", "model_attributes_type": "a mapping"}.get(kind)  # fmt: skip
    if wanted is None:
        return document.fault(path, f"{_label(path)}: {error['msg'].lower()}")
    hint = f"write [{value}]" if wanted == "a list" and isinstance(value, str) else ""
    hint = f"put it in quotes: {str(value)!r}" if wanted == "text" and isinstance(value, int | float) else hint
    return document.fault(path, f"{_label(path)} must be {wanted}, not {_kind(value)}", hint)


def _label(path: Path) -> str:
    """The key that a fault is about: `http:`, or `http: item 2`."""
    if path and isinstance(path[-1], int):
        return f"{path[-2] if len(path) > 1 else ''}: item {path[-1] + 1}"
    return f"{path[-1]}:" if path else "the policy"


def _path(document: Document, loc: tuple[str | int, ...]) -> Path:
    """pydantic's location without the steps that are not in the file (which form of a rule it tried)."""
    here: object = document.root
    path: list[str | int] = []
    for index, step in enumerate(loc):
        if (
            isinstance(here, Mapping)
            and isinstance(step, str)
            and (step in here or (index == len(loc) - 1 and step not in {"text", "map"}))
        ):
            path.append(step)
            here = here.get(step)
        elif isinstance(here, Items) and isinstance(step, int) and step < len(here):
            path.append(step)
            here = here[step]
    return tuple(path)


def _unknown(path: Path) -> tuple[str, str]:
    """Message and hint for a key that this place does not have."""
    key = str(path[-1])
    if key in NOT_BUILT:
        return NOT_BUILT[key]
    model = _model(path[:-1])
    known = [str(name) for name in model.model_fields] if model else []
    hint = _did_you_mean(key, known) or (f"known here: {', '.join(known)}" if known else "")
    return f"unknown key {key!r}", hint


def _model(path: Path) -> type[BaseModel] | None:
    match path:
        case ():
            return shape.PolicyFile
        case ("ceiling",):
            return shape.CeilingEntry
        case ("packages", _):
            return shape.PackageEntry
        case ("packages", _, "limits") | ("packages", _, _, int(), "limits"):
            return shape.LimitsEntry
        case ("packages", _, "deny"):
            return shape.DenyLists
        case ("packages", _, "deny", str(key), int()) | ("ceiling", str(key), int()) if key in _ENTRIES:
            return _ENTRIES[key][1]
        case ("packages", _, str(key), int()) if key in _ENTRIES:
            return _ENTRIES[key][0]
        case _:
            return None


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if not close:
        close = [k for k in known if k.endswith(f":{word.lower()}")][:1]
    return f"did you mean {close[0]!r}?" if close else ""
