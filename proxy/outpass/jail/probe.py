"""What this machine lets this user do: every step of a jail tried for real, each in a process of its own.

Lives here: trying, and what came of it as values. May not live here: printing (cli.doctor), the recipe itself.
Nothing outside the tried namespaces changes, and those end with their process.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outpass.jail import advice, apply, inside, launch, recipe, signals, steps
from outpass.jail.plan import Door
from outpass.jail.recipe import Host, JailRequest
from outpass.jail.steps import Step

WALL: Final = "wall"
"""There is no jail without it."""
DOOR: Final = "door"
"""The jail reaches less without it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. `works`, or `said` has the kernel's answer and `hint` what to do."""

    name: str
    sort: str
    """`wall` or `door`."""
    works: bool
    said: str = ""
    hint: str = ""

    @property
    def fatal(self) -> bool:
        """Whether this alone makes a jail impossible."""
        return not self.works and self.sort == WALL


def attempt(todo: Sequence[Step]) -> tuple[str, str]:
    """Carry out `todo` in a forked child: ("", "") when all of it worked, else (what the kernel said, what to do).

    A door that is missing counts as failed here, whatever the recipe says of it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _try(theirs, todo)
    theirs.close()
    with ours:
        said, hint = "its process ended without a word", advice.DOCTOR
        while packet := ours.recv(inside.PACKET):
            message: dict[str, Any] = json.loads(packet)
            if "map" in message:
                ids = message["map"]
                number = launch.write_maps(pid, ids["uids"], ids["gids"], ids["setgroups"])
                ours.send(json.dumps({"errno": number}).encode())
            else:
                said, hint = message["said"], message["hint"]
    os.waitpid(pid, 0)
    return said, hint


def _try(channel: socket.socket, todo: Sequence[Step]) -> None:
    """In the child; never returns."""
    signals.as_before_python()
    progress = apply.Progress(channel.fileno(), lambda step: inside.ask_for_maps(channel, step))
    try:
        apply.carry_out(todo, progress)
        said, hint = (f"not possible: {', '.join(progress.without)}", "") if progress.without else ("", "")
    except apply.StepFailed as failed:
        said, hint = str(failed), failed.hint
    except BaseException as bad:
        said, hint = f"{type(bad).__name__}: {bad}", ""
    finally:
        channel.send(json.dumps({"said": said, "hint": hint}).encode())
        os._exit(0)


def examine(host: Host) -> list[Finding]:
    """Every step of the recipe for this host, from the outside in; the last is a whole jail."""
    found = [Finding(name, sort, not said, said, hint) for name, sort, todo in _trials(host) for said, hint in [attempt(todo)]]
    if host.landlock < recipe.LANDLOCK_SCOPES:
        hint = "a PID namespace does its work" if host.own_pids else "use Linux 6.12 or later with landlock in lsm="
        sort = DOOR if host.own_pids else WALL
        found.append(Finding("signals end at the jail (Landlock)", sort, False, f"Landlock ABI {host.landlock}, not 6", hint))
    if not any(f.fatal for f in found):
        said, hint = _whole(host)
        found.append(Finding("all of it together", WALL, not said, said, hint))
    return found


def _trials(host: Host) -> list[tuple[str, str, list[Step]]]:
    def within(*names: str) -> list[Step]:
        return [steps.Unshare(("user", *names)), steps.MapIds(host.uids, host.gids, setgroups=host.privileged)]

    net = [*within("net"), steps.LoopbackUp()]
    doors = recipe.listeners((), host.ipv6)
    no_new: list[Step] = [steps.NoNewPrivileges()]
    trials: list[tuple[str, str, list[Step]]] = [
        ("user namespace", WALL, within()),
        ("network namespace with loopback", WALL, net),
        ("the gate's explicit listener", WALL, [*net, *doors[:1]]),
        ("every IPv4 address local", DOOR, [*net, steps.AnyAddress("ip4")]),
    ]
    if host.ipv6:
        trials.append(("every IPv6 address local", DOOR, [*net, steps.AnyAddress("ip6")]))
    trials += [
        ("DNS listeners", DOOR, [*net, *(d for d in doors if isinstance(d, steps.Listen) and d.port == recipe.DNS_PORT)]),
        ("transparent TCP (nftables tproxy)", DOOR, [*net, *(d for d in doors if _is_transparent(d))]),
        ("which program holds a connection (sock_diag)", DOOR, [*net, steps.Inspect()]),
        ("mounts of its own", WALL, [*within("mount"), steps.Detach(), steps.Veil("/sys"), steps.Bind("/proc", "/proc")]),
        ("interprocess communication of its own", WALL, within("ipc")),
    ]
    if host.own_pids:
        pids: list[Step] = [*within("mount", "pid"), steps.Detach(), steps.OwnPids(), steps.FreshProc()]
        trials.append(("process numbers and /proc of its own", WALL, pids))
    kept = recipe.KEPT_AS_ROOT if host.privileged else ()
    trials += [
        ("dropping capabilities", WALL, [*within(), steps.DropCapabilities(kept)]),
        ("no new privileges", WALL, no_new),
        ("system call filter (seccomp)", WALL, [*no_new, steps.Filter(host.machine, allow_userns=False)]),
        ("closing descriptors", WALL, [steps.CloseOthers(())]),
    ]
    if host.landlock >= recipe.LANDLOCK_SCOPES:
        trials.append(("signals end at the jail (Landlock)", WALL, [*no_new, steps.Scope()]))
    return trials


def _is_transparent(step: Step) -> bool:
    return isinstance(step, steps.Intercept) or (isinstance(step, steps.Listen) and step.transparent)


def _whole(host: Host) -> tuple[str, str]:
    """A jail as `run` makes it, around nothing."""
    with tempfile.TemporaryDirectory(prefix="outpass-doctor-") as name:
        runtime = Path(os.path.realpath(name))
        for part in ("mint.sock", "ca.pem", "bundle.pem"):
            (runtime / part).touch()
        door = Door("", f"{runtime}/mint.sock", f"{runtime}/ca.pem", f"{runtime}/bundle.pem")
        request = JailRequest(cwd="/", private=(str(runtime),))
        return attempt([*recipe.enter(request, host), *recipe.walls(request, host, door)])


def settings() -> dict[str, str]:
    """The kernel's switches that matter, as they stand; `-` where there is no such switch."""
    found = {}
    for name in _SWITCHES:
        try:
            found[name] = Path(name).read_text().strip()
        except OSError:
            found[name] = "-"
    return found


_SWITCHES: Final = (
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/sys/kernel/security/lsm",
)
