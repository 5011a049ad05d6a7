"""Carrying out steps, in order. Any failure of a wall ends it, with the step's name and what to do.

Lives here: which function does which step. May not live here: how (the modules named in the table), or in what order (recipe.py).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from outpass.jail import advice, listeners, mounts, netlink, privileges, processes, recipe, steps, syscalls
from outpass.jail.steps import Step


class StepFailed(Exception):
    """A step that a jail cannot do without could not be done. Sent to the launcher as text; the child does not go on."""

    def __init__(self, step: Step, number: int) -> None:
        super().__init__(f"could not {step.say()}: {os.strerror(number).lower()}")
        self.hint = advice.on(type(step).__name__, number)


class Progress:
    """What the steps so far have brought about.

    `report`: descriptor of the channel to the launcher. `map_ids` asks the launcher to write the id maps and returns when they
    are written. `without`: doors that could not be made, `ip4`, `ip6` or a listener's kind.
    """

    def __init__(self, report: int, map_ids: Callable[[steps.MapIds], None]) -> None:
        self.report = report
        self.map_ids = map_ids
        self.listeners: list[tuple[str, socket.socket]] = []
        self.without: list[str] = []


def carry_out(todo: Sequence[Step], progress: Progress) -> None:
    """Do every step. Raises StepFailed at the first wall that cannot be built; a missing door is noted in `progress`."""
    for step in todo:
        try:
            _TABLE[type(step)](step, progress)
        except OSError as bad:
            if getattr(step, "needed", True):
                raise StepFailed(step, bad.errno or 0) from bad
            _go_without(step, progress)


def _go_without(step: Step, progress: Progress) -> None:
    match step:
        case steps.AnyAddress(family=family):
            progress.without.append(family)
        case steps.Listen(kind=kind):
            progress.without.append(kind)
        case steps.Inspect():
            progress.without.append(recipe.SOCKETS)
        case steps.Intercept():  # nothing would ever arrive at its listener
            progress.without.append("transparent")
            for kind, sock in list(progress.listeners):
                if kind == "transparent":
                    sock.close()
                    progress.listeners.remove((kind, sock))


def _unshare(step: steps.Unshare, _: Progress) -> None:
    flags = 0
    for name in step.namespaces:
        flags |= syscalls.NAMESPACES[name]
    syscalls.unshare(flags)


def _listen(step: steps.Listen, progress: Progress) -> None:
    progress.listeners.append((step.kind, listeners.make(step)))


def _inspect(_: steps.Inspect, progress: Progress) -> None:
    progress.listeners.append((recipe.SOCKETS, netlink.socket_table()))


def _own_pids(_: steps.OwnPids, progress: Progress) -> None:
    processes.become_first(progress.report)


_TABLE: Final[dict[type, Callable[[Any, Progress], None]]] = {
    steps.Unshare: _unshare,
    steps.MapIds: lambda step, progress: progress.map_ids(step),
    steps.LoopbackUp: lambda _, __: netlink.loopback_up(),
    steps.AnyAddress: lambda step, _: netlink.add_route(step.family),
    steps.Listen: _listen,
    steps.Intercept: lambda step, _: netlink.intercept(step.port, step.families),
    steps.Inspect: _inspect,
    steps.Detach: lambda _, __: mounts.detach(),
    steps.Freeze: lambda step, _: mounts.freeze(step),
    steps.Veil: lambda step, _: mounts.veil(step),
    steps.Mask: lambda step, _: mounts.mask(step),
    steps.Bind: lambda step, _: mounts.bind(step),
    steps.MinimalDevices: lambda step, _: mounts.minimal_devices(step),
    steps.FreshProc: lambda _, __: mounts.fresh_proc(),
    steps.Workdir: lambda step, _: os.chdir(step.path),
    steps.OwnPids: _own_pids,
    steps.Reaper: lambda _, progress: processes.leave_reaper(progress.report),
    steps.DropCapabilities: lambda step, _: privileges.drop_capabilities(step),
    steps.NoNewPrivileges: lambda _, __: privileges.no_new_privileges(),
    steps.Scope: lambda _, __: syscalls.landlock_scope(),
    steps.Filter: lambda step, _: privileges.load_filter(step),
    steps.CloseOthers: lambda step, _: privileges.close_others(step),
}
