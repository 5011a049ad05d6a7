"""The engine without its addons, its QUIC and its HTTP/3: a web application, an LDAP client, a second TLS and 30 other things.

Lives here: leaving them out. May not live here: any import of the engine.

[O6] A gate uses one module of that package, and HTTP/3 is switched off (options.py). They cost nearly half of the CPU of a gate's
start and a third of its memory, and every module that is not there holds no defect.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "mitmproxy.addons"
ABSENT: Final = (
    "mitmproxy.proxy.layers.quic",
    "mitmproxy.proxy.layers.http._http3",
    "aioquic",
    "aioquic.h3",
    "aioquic.h3.connection",
    "aioquic.tls",
)
"""What other modules of the engine name: in annotations, in comparisons, in branches that only an HTTP/3 client would reach."""


class Absent(types.ModuleType):
    """A module that has whatever class it is asked for. Nothing is an instance of one, and none can be made."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__slots__": (), "__init__": _refuse})
        setattr(self, name, made)
        return made


def _refuse(self: object, *_: object, **__: object) -> None:
    raise NotImplementedError(f"the gate has no {type(self).__name__}")


def prepare() -> None:
    """Make the package's modules importable one by one. To be called before the engine is imported, in a gate's own process."""
    engine = importlib.util.find_spec("mitmproxy")
    if PACKAGE in sys.modules or engine is None or not engine.submodule_search_locations:
        return
    package = types.ModuleType(PACKAGE, "Without what its __init__ imports (outpass.gate.engine.bare).")
    package.__path__ = [str(Path(where) / "addons") for where in engine.submodule_search_locations]
    sys.modules[PACKAGE] = package
    for name in ABSENT:
        sys.modules[name] = Absent(name)
