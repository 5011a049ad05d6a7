"""One policy file as plain data that still knows where everything stood.

Lives here: mappings and sequences with marks, and the way from a path of keys to file:line:column. May not live here: YAML
(files.py and yamldoc.py build these), what the data means (schema.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from outpass.errors import Fault, Place


class Mark(NamedTuple):
    """1-based line and column."""

    line: int
    column: int


class Mapping(dict[str, object]):
    """A mapping that knows where each key and each value stood."""

    __slots__ = ("keys_at", "values_at")

    def __init__(self) -> None:
        super().__init__()
        self.keys_at: dict[str, Mark] = {}
        self.values_at: dict[str, Mark] = {}

    def put(self, key: str, value: object, key_at: Mark, value_at: Mark) -> None:
        """Adds an entry; the last one wins (duplicates are faults, found by whoever reads the file)."""
        self[key] = value
        self.keys_at[key] = key_at
        self.values_at[key] = value_at


class Items(list[object]):
    """A sequence that knows where each item stood."""

    __slots__ = ("items_at",)

    def __init__(self) -> None:
        super().__init__()
        self.items_at: list[Mark] = []

    def put(self, value: object, at: Mark) -> None:
        """Appends an item."""
        self.append(value)
        self.items_at.append(at)


_START: Final = Mark(1, 1)


@dataclass(frozen=True, slots=True)
class Document:
    """A policy file: `file` as the user named it, `root` made of Mapping, Items, str, int, float, bool, None."""

    file: str
    root: object
    at: Mark = _START

    def place(self, path: Sequence[str | int], *, key: bool = False) -> Place:
        """Where the value (or, with `key`, the key) at `path` stood; as near to it as the path leads."""
        here, found = self.root, self.at
        for index, step in enumerate(path):
            last = index == len(path) - 1
            if isinstance(here, Mapping) and isinstance(step, str) and step in here:
                found = here.keys_at[step] if key and last else here.values_at[step]
                here = here[step]
            elif isinstance(here, Items) and isinstance(step, int) and step < len(here):
                found, here = here.items_at[step], here[step]
        return Place(self.file, found.line, found.column)

    def fault(self, path: Sequence[str | int], message: str, hint: str = "", *, key: bool = False) -> Fault:
        """A fault at `path`."""
        return Fault(self.place(path, key=key), message, hint)
