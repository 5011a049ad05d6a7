"""YAML text becomes a Document, with every key's line and column kept, or every fault in it.

Lives here: PyYAML's composer (nodes and marks, no Python objects), the YAML 1.2 core types, duplicate keys, caps. May not
live here: reading files (files.py), what a policy means (policy/). Only this file and its neighbour files.py know YAML.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

from outpass.errors import Fault, Place, PolicyError
from outpass.policy.document import Document, Items, Mapping, Mark

MAX_BYTES: Final = 32 * 1024 * 1024
"""A policy of a hundred thousand rules is about 10 MB."""
MAX_DEPTH: Final = 32
MAX_ALIASED: Final = 100_000
"""Nodes that aliases may add (CVE-2003-1564, "billion laughs")."""
_TAG: Final = "tag:yaml.org,2002:"


class _Loader(yaml.CSafeLoader):
    """YAML 1.2 core: `no`, `on` and 12:30:00 are text, dates are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own convention


for _tag, _pattern, _starts in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(rf"(?:{_pattern})\Z"), list(_starts))


def document(name: str, raw: bytes) -> Document:
    """The document in `raw`, called `name` in every fault. Raises PolicyError."""
    if len(raw) > MAX_BYTES:
        raise _error(name, Mark(1, 1), f"the file is larger than {MAX_BYTES // 2**20} MiB", "split it, or use wildcards")
    text = _text(name, raw)
    _shallow(name, text)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as problem:
        raise _syntax(name, text, problem) from None
    reader = _Reader(name)
    root = reader.value(node, 0) if node is not None else None
    if reader.faults:
        raise PolicyError(tuple(reader.faults))
    return Document(name, root, _mark(node.start_mark) if node is not None else Mark(1, 1))


def _error(name: str, at: Mark, message: str, hint: str = "") -> PolicyError:
    return PolicyError((Fault(Place(name, at.line, at.column), message, hint),))


def _text(name: str, raw: bytes) -> str:
    try:
        return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as problem:
        before = raw[: problem.start].decode("utf-8", "replace")
        at = Mark(before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)
        raise _error(name, at, f"the file is not UTF-8: byte 0x{raw[problem.start]:02x}", "save it as UTF-8") from None


def _shallow(name: str, text: str) -> None:
    """Refuses absurd nesting before the composer, which is C and recurses without looking at the stack."""
    depth = 0
    for found in re.finditer(r"[\[\]{}\n]", text):
        if found[0] in "[{":
            depth += 1
        elif found[0] in "]}":
            depth = max(0, depth - 1)
        if depth > 8 * MAX_DEPTH:
            line = text.count("\n", 0, found.start()) + 1
            raise _error(name, Mark(line, 1), "brackets are nested too deeply")
    # a block level costs two columns, or a "- " (which may repeat in one line)
    for number, line_text in enumerate(text.splitlines(), 1):
        lead = re.match(r"(?:[ ]|[-?:](?=\s))*", line_text)
        if lead is not None and lead.end() > 64 * MAX_DEPTH:
            raise _error(name, Mark(number, 1), "blocks are nested too deeply")


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _syntax(name: str, text: str, problem: yaml.YAMLError) -> PolicyError:
    """PyYAML's complaint in our voice, with a hint for what people do most."""
    mark = getattr(problem, "problem_mark", None) or getattr(problem, "context_mark", None)
    if mark is None:
        position = getattr(problem, "position", 0)
        at = Mark(text.count("\n", 0, position) + 1, position - (text.rfind("\n", 0, position) + 1) + 1)
        return _error(name, at, "the file holds a character that YAML does not allow")
    said = str(getattr(problem, "problem", "") or getattr(problem, "context", "") or "syntax error")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = ""
    if "\t" in line[: mark.column + 1]:
        said, hint = "a tab where YAML wants spaces", "indent with spaces"
    elif "*" in line and ("alias" in said or "alphabetic" in said):
        said, hint = "a value that starts with * needs quotes", 'write "*" or "*.example.com" in quotes'
    elif "but found another document" in said:
        said, hint = "the file holds more than one document", "remove the --- line, or include a second file"
    return _error(name, _mark(mark), said.lower(), hint)


class _Reader:
    """Nodes to marked data, once through."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: set[int] = set()
        self._aliased = 0
        self._within_alias = 0
        self.faults: list[Fault] = []

    def value(self, node: yaml.Node, depth: int) -> object:
        """The data of one node, with everything below it."""
        if depth > MAX_DEPTH:
            raise _error(self._name, _mark(node.start_mark), "the file is nested too deeply, or an alias stands for itself")
        again = id(node) in self._seen and not isinstance(node, yaml.ScalarNode)
        self._seen.add(id(node))
        self._within_alias += again
        if self._within_alias:
            self._aliased += 1
            if self._aliased > MAX_ALIASED:
                raise _error(
                    self._name, _mark(node.start_mark), "aliases repeat too much", "write the entries out, or use include:"
                )
        if not isinstance(node, yaml.ScalarNode) and node.tag not in {_TAG + "map", _TAG + "seq"}:
            self._fault(_mark(node.start_mark), f"the tag {node.tag.removeprefix(_TAG)!r} means nothing in a policy", "remove it")
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, depth)
            if isinstance(node, yaml.SequenceNode):
                items = Items()
                for child in node.value:
                    items.put(self.value(child, depth + 1), _mark(child.start_mark))
                return items
            return self._scalar(node)
        finally:
            self._within_alias -= again

    def _mapping(self, node: yaml.MappingNode, depth: int) -> Mapping:
        found = Mapping()
        for key_node, value_node in node.value:
            at = _mark(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "this"
                self._fault(at, f"keys are text, and {shown!r} is not", f'put it in quotes: "{shown}"')
                continue
            key = key_node.value
            if key in found:
                self._fault(at, f"the key {key!r} stands here twice; the first is at line {found.keys_at[key].line}", "keep one")
                continue
            found.put(key, self.value(value_node, depth + 1), at, _mark(value_node.start_mark))
        return found

    def _scalar(self, node: yaml.Node) -> object:
        text = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text, 0) if text[:2] in {"0o", "0x"} else _whole(text)
            case "float":
                return float(text)
            case tag:
                self._fault(_mark(node.start_mark), f"the tag {tag!r} means nothing in a policy", "remove it")
                return None

    def _fault(self, at: Mark, message: str, hint: str) -> None:
        self.faults.append(Fault(Place(self._name, at.line, at.column), message, hint))


def _whole(text: str) -> int | str:
    """A number; digits without end stay text, since nothing in a policy is that large (CVE-2020-10735)."""
    return int(text) if len(text) <= 18 else text
