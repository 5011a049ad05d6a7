"""Installs the shim, in the one order that works, and keeps what the launcher said in the environment.

Lives here: the environment (read once) and the order of installation. May not live here: anything slow; what a program that
never uses the network does not need is imported by _lazy when it does.
"""

import os
import time

from outpass_shim import _lazy, _registry

MINT = PROXY = CA = ""
SPAWN: "str | None" = None
"""The spawn pass that the parent left for this process; exchanged in the first hello."""


PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def install() -> None:
    """Takes OUTPASS_SPAWN out of the environment, records the modules there are, hooks imports, fork and exec.

    Raises whatever goes wrong: sitecustomize reports it, and the process has no passes.
    """
    global MINT, PROXY, CA, SPAWN
    env = os.environ
    MINT, PROXY, CA = env["OUTPASS_MINT"], env.get("OUTPASS_PROXY", ""), env.get("OUTPASS_CA", "")
    # Not inherited: a child that found it would present itself as this process.
    SPAWN = env.pop("OUTPASS_SPAWN", None)
    for name in PROXY_VARIABLES:
        # The parent lent its spawn pass to programs without a shim; this one has its own, and the gate takes no two.
        if PROXY and env.get(name, "").endswith("@" + PROXY):
            env[name] = "http://" + PROXY
    _registry.start(time.time())
    _lazy.install()
    for name in ("execv", "execve", "posix_spawn", "posix_spawnp", "system"):
        if hasattr(os, name):
            setattr(os, name, _with_spawn_pass(name, getattr(os, name)))
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
    if SPAWN is not None:
        # The parent may be gone before this program asks for anything, and its session with it: say hello now.
        from outpass_shim import _session

        _session.greet()


def _with_spawn_pass(name: str, original: object) -> object:
    def call(*args: object, **kwargs: object) -> object:
        from outpass_shim import _spawn

        return _spawn.through(name, original, args, kwargs)

    call.__name__, call.__doc__ = name, original.__doc__
    return call


def _before_fork() -> None:
    # A child can name its parent's session only if there is one. A parent that got its session later would leave the
    # child a stranger below a session holder, and the broker refuses these (PROTOCOL.md, spawn_pass_required).
    from outpass_shim import _session

    _session.ensure()


def _after_fork() -> None:
    from outpass_shim import _session

    _session.forked()
