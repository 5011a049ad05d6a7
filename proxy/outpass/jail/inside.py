"""The launcher's child, from fork to exec: enters the jail, hands the listeners out, builds the walls, becomes CMD.

Lives here: that order, and the channel to the launcher. May not live here: the launcher's side (launch.py), the steps.

Over a SOCK_SEQPACKET pair, JSON, one object a packet; the child speaks first. Its end without a word: exec has happened.

    → {"map":{"uids":"…","gids":"…","setgroups":false}}          ← {"ok":true} or {"errno":13}
    → {"listeners":["http", …],"without":["ip6", …]}  + sockets   ← {"door":["127.0.0.1:3128","/…/mint.sock", …]}
    → {"failed":"could not …","hint":"…"}   or   {"not_started":2}
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from outpass.errors import EXIT_OWN
from outpass.jail import apply, processes, recipe, seccomp, signals, steps
from outpass.jail.plan import Door
from outpass.jail.recipe import Host, JailRequest

PACKET: Final = 1 << 16
MAX_DESCRIPTORS: Final = 64

Environment = Callable[[Door], Mapping[str, str]]


def become(
    channel: socket.socket, launcher: int, command: Sequence[str], request: JailRequest, host: Host, environment: Environment
) -> NoReturn:
    """In the child, single-threaded: become CMD in a jail, or say why not and exit. Never returns, never raises."""
    try:
        signals.as_before_python()
        door = _enter(channel, launcher, request, host)
        progress = apply.Progress(channel.fileno(), _no_maps)
        apply.carry_out(recipe.walls(request, host, door.door, door.without), progress)
        _execute(command, environment(door.door))
    except apply.StepFailed as failed:
        _say(channel, {"failed": str(failed), "hint": failed.hint})
    except _NotExecuted as failed:
        _say(channel, {"not_started": failed.number})
    except BaseException as bad:  # whatever it is, CMD does not run
        _say(channel, {"failed": f"internal: {type(bad).__name__}: {bad}", "hint": ""})
    finally:
        os._exit(EXIT_OWN)


class _NotExecuted(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Opened:
    """What the launcher answers: the door, beside the doors that there are not."""

    def __init__(self, door: Door, without: list[str]) -> None:
        self.door = door
        self.without = without


def _enter(channel: socket.socket, launcher: int, request: JailRequest, host: Host) -> _Opened:
    progress = apply.Progress(channel.fileno(), lambda step: ask_for_maps(channel, step))
    apply.carry_out(recipe.enter(request, host), progress)
    if host.own_pids:
        processes.die_with_launcher(launcher)  # not before: new namespaces forget it
    kinds = [kind for kind, _ in progress.listeners]
    message = json.dumps({"listeners": kinds, "without": progress.without}).encode()
    socket.send_fds(channel, [message], [sock.fileno() for _, sock in progress.listeners])
    for _, sock in progress.listeners:
        sock.close()
    seccomp.program(host.machine, request.allow_userns)  # remembered for its step: it is made while the daemon works
    return _Opened(Door(*_answer(channel)["door"]), progress.without)


def ask_for_maps(channel: socket.socket, step: steps.MapIds) -> None:
    """Have the other end write this process's id maps. Raises OSError with what the kernel said there."""
    _say(channel, {"map": {"uids": step.uids, "gids": step.gids, "setgroups": step.setgroups}})
    number = _answer(channel).get("errno", 0)
    if number:
        raise OSError(number, os.strerror(number))


def _no_maps(_: steps.MapIds) -> None:
    raise OSError(errno.EINVAL, "ids are mapped before the walls are built")


def _execute(command: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], list(command), dict(env))
    except OSError as bad:
        raise _NotExecuted(bad.errno or errno.ENOEXEC) from None


def _say(channel: socket.socket, message: Mapping[str, Any]) -> None:
    channel.send(json.dumps(message).encode())


def _answer(channel: socket.socket) -> dict[str, Any]:
    packet = channel.recv(PACKET)
    if not packet:  # the launcher is gone, and with it everything that this would be good for
        os._exit(EXIT_OWN)
    answer: dict[str, Any] = json.loads(packet)
    return answer
