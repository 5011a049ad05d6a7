"""The engine without its addons: what `mitmproxy.addons` imports is a web application, an LDAP client and 30 other things.

Lives here: leaving them out. May not live here: any import of the engine.

[O6] A gate uses three modules of that package. Its `__init__` costs a third of the gate's start and 16 MiB, and every module
that is not there holds no defect.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Final

PACKAGE: Final = "mitmproxy.addons"


def prepare() -> None:
    """Make the package's modules importable one by one. To be called before the engine is imported, in a gate's own process."""
    engine = importlib.util.find_spec("mitmproxy")
    if PACKAGE in sys.modules or engine is None or not engine.submodule_search_locations:
        return
    package = types.ModuleType(PACKAGE, "Without what its __init__ imports (outpass.gate.engine.bare).")
    package.__path__ = [str(Path(where) / "addons") for where in engine.submodule_search_locations]
    sys.modules[PACKAGE] = package
