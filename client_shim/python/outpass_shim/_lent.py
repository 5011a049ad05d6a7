"""A pass for libraries in C: the one that programs without a shim are lent, in the proxy's credentials.

Lives here: that pass, one for each chain of this process. May not live here: how a library is told (_curl, _grpc).

It covers every request of the connections that are made with it, redirects and reconnections too, and is charged to the chain it
was minted for (PROTOCOL.md, `spawn`).
"""

import os
import sys

from outpass_shim import _session
from outpass_shim._chain import principals

_passes: "dict[tuple[int, tuple[str, ...]], str]" = {}
MAX_PASSES = 1024


def lent() -> "tuple[tuple[str, ...], str] | None":
    """(chain of whoever is calling, its pass); None without a session: then the gate refuses."""
    if not _session.ensure():
        return None
    chain = principals(sys._getframe())
    key = (os.getpid(), chain)
    found = _passes.get(key)
    if found is None:
        minted = _session.mint("spawn", "*:0", False)
        if minted is None:
            return None
        if len(_passes) >= MAX_PASSES:
            _passes.clear()
        found = _passes[key] = minted[0]
    return chain, found
