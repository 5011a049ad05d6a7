"""The targets by name. Lives here: that list. May not live here: anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tests.fuzz.canonical import Canonical
from tests.fuzz.engine import Target
from tests.fuzz.h1 import H1
from tests.fuzz.h2 import H2

TARGETS: Final[Mapping[str, Callable[[], Target]]] = {"canonical": Canonical, "h1": H1, "h2": H2}
