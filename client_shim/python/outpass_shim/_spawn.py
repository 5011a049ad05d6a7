"""A spawn pass for each child that inherits outpass's environment: subprocess, multiprocessing, exec, posix_spawn, system.

Lives here: putting OUTPASS_SPAWN into a child's environment. May not live here: changing os.environ, which is the program's.

A child without OUTPASS_MINT in its environment has no shim, so it gets no pass; nor does one of an `outpass run` within this
one, whose OUTPASS_MINT is another broker's, to which a pass of ours is a forgery. A pass is minted even if this process never
used the network: it may later, and then a child without one would be a stranger (PROTOCOL.md, spawn_pass_required).
"""

import os
import posix
import sys

from outpass_shim import _boot, _session
from outpass_shim._registry import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

_NAME = b"OUTPASS_SPAWN"
_MARK = b"OUTPASS_MINT"
_PROXIES = tuple(name.encode() for name in _boot.PROXY_VARIABLES)
_ENV_ARGUMENT = 5
"""Of _posixsubprocess.fork_exec, on 3.9 to 3.13; a list of `NAME=value` in bytes, or None for this process's own."""


def _pass() -> "bytes | None":
    minted = _session.mint("spawn", "*:0", False)
    return None if minted is None else minted[0].encode("ascii")


def fork_exec(module: Any) -> None:
    """_posixsubprocess.fork_exec: what subprocess and multiprocessing's spawn and forkserver start their children with."""
    original = module.fork_exec

    def call(*args: Any) -> Any:
        env = args[_ENV_ARGUMENT] if len(args) > _ENV_ARGUMENT else ()
        if env is None:
            env = [k + b"=" + v for k, v in os.environb.items()]
        if isinstance(env, list) and _MARK + b"=" + os.fsencode(_boot.MINT) in env:
            token = _pass()
            if token is not None:
                pairs = dict(e.partition(b"=")[::2] for e in env)
                env = [k + b"=" + v for k, v in _lend(pairs, token).items()]
                args = (*args[:_ENV_ARGUMENT], env, *args[_ENV_ARGUMENT + 1 :])
        else:
            # No shim and no pass for this child. The broker must know that it has a spawner, and which process that is: a
            # program started by nobody in particular would be charged alone.
            _session.ensure()
        return original(*args)

    call.__name__, call.__doc__ = "fork_exec", original.__doc__
    module.fork_exec = call
    users = sys.modules.get("subprocess")  # 3.11+ holds the function itself
    if users is not None and getattr(users, "_fork_exec", None) is original:
        users._fork_exec = call  # type: ignore[attr-defined]


def through(name: str, original: Any, args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> Any:
    """os.execv, os.execve, os.posix_spawn, os.posix_spawnp and os.system, with a spawn pass in the child's environment."""
    if name == "system":
        return _system(original, *args, **kwargs)
    if name == "execv" and len(args) == 2 and os.environb.get(_MARK) == os.fsencode(_boot.MINT):
        # The program after exec has this process's pid and ancestors, and no session: it needs the pass as a child does.
        return os.execve(*args, os.environ)  # itself wrapped
    env = kwargs.get("env", args[2] if len(args) > 2 else None)
    if env is None and name != "execve":
        env = os.environ  # 3.13's posix_spawn, and with it subprocess, says None for that
    if env is not None and hasattr(env, "keys"):
        given = _with_pass(env)
        if "env" in kwargs:
            kwargs = {**kwargs, "env": given}
        else:
            args = (*args[:2], given, *args[3:])
    return original(*args, **kwargs)


def _system(original: Any, command: Any) -> int:
    """os.system. The C library's gives its child this process's own environment, and changing that would lend the pass to
    whatever other threads start meanwhile; so this is what it does (POSIX, system()), with an environment for the child."""
    import signal

    env = os.environ
    given = _with_pass(env)
    if given is env:
        return int(original(command))
    sys.audit("os.system", os.fsencode(command))
    shell = ["sh", "-c", command]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))  # nobody else's handler waits for our child
    handlers = _ignored((signal.SIGINT, signal.SIGQUIT))
    try:
        return _waited(posix.posix_spawn("/bin/sh", shell, given, setsigmask=before, setsigdef=list(handlers)))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _waited(pid: int) -> int:
    """The status of a child at its end; -1 where another thread took it. What a signal handler raises comes afterwards."""
    raised: BaseException | None = None
    while True:
        try:
            status = os.waitpid(pid, 0)[1]
        except ChildProcessError:
            status = -1
        except BaseException as e:
            raised = e
            continue
        if raised is not None:
            raise raised
        return status


def _ignored(numbers: "tuple[int, ...]") -> "dict[int, Any]":
    """Ignores these signals, as far as Python lets this thread; their handlers. One that the program ignores stays so."""
    import signal

    found = {n: signal.getsignal(n) for n in numbers}
    handlers = {n: h for n, h in found.items() if h not in (None, signal.SIG_IGN)}
    try:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
    except ValueError:  # not the main thread
        return {}
    return handlers


def _with_pass(env: "Mapping[Any, Any]") -> "Mapping[Any, Any]":
    coded = {os.fsencode(k): v for k, v in env.items()}
    ours = os.fsencode(coded.get(_MARK, b"")) == os.fsencode(_boot.MINT)
    token = _pass() if ours and _NAME not in coded else None
    if not ours:
        _session.ensure()  # as in fork_exec
    return env if token is None else _lend(coded, token)


def _lend(env: "Mapping[bytes, Any]", token: bytes) -> "dict[bytes, Any]":
    """`env` with the pass: for a shim in OUTPASS_SPAWN, for a program without one as the user name in the proxy's URL."""
    lent = {**env, _NAME: token}
    door = _boot.PROXY.encode()
    for name in _PROXIES:
        if door and os.fsencode(lent.get(name, b"")) == b"http://" + door:
            # With a password, or git asks the person for one.
            lent[name] = b"http://" + token + b":x@" + door
    return lent
