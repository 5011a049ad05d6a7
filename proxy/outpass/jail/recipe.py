"""The recipe of a jail: from what is asked for and what the machine is like to the steps, in order. Pure.

Lives here: which steps, in which order, and why. May not live here: doing them (apply.py), looking at the machine (host.py),
paths worth hiding (places.py).

`enter` stands before the daemon is asked (it makes the listeners that the daemon is handed), `walls` after its answer (it
needs to know which socket must stay reachable). Nothing of CMD runs before the last wall stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from outpass.errors import StartError
from outpass.jail import places, seccomp, steps
from outpass.jail.plan import Door
from outpass.jail.steps import Step
from outpass.jail.veils import arrange, below, hidden

EXPLICIT_PORT: Final = 3128
TRANSPARENT_PORT: Final = 61999
DNS_PORT: Final = 53
SOCKETS: Final = "sockets"
"""The kind, in `jail.open`, of what is handed over with the listeners but is none: the table of the jail's sockets."""
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 of the jail's own network namespace

LANDLOCK_SCOPES: Final = 6
"""First Landlock ABI with scopes for signals and abstract sockets (Linux 6.12)."""

KEPT_AS_ROOT: Final = (0, 1, 3, 4, 5, 6, 7, 8, 10, 31)
"""CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SETFCAP: what installing packages needs. They
are capabilities of the jail's user namespace and hold for nothing that belongs to the one outside."""


class JailRequest(NamedTuple):
    """What a run asks for. Paths are absolute and canonical."""

    cwd: str
    roots: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    """Directories of outpass itself: runtime, state, trust. Nothing of them is visible inside."""
    session: tuple[str, ...] = ()
    """Directories of the user's session (XDG_RUNTIME_DIR): its sockets go, but a working directory in it stays."""
    secret_files: tuple[str, ...] = ()
    """The same for single files."""
    policies: tuple[str, ...] = ()
    """Files in force: read-only inside."""
    allow_unix: tuple[str, ...] = ()
    """Sockets, or directories of sockets, that stay reachable."""
    private_tmp: bool = False
    read_only: bool = False
    allow_userns: bool = False
    keep_fds: tuple[int, ...] = ()
    forward: tuple[int, ...] = ()
    """Ports of 127.0.0.1 inside that lead to the host's loopback through the gate."""


class Host(NamedTuple):
    """What the machine is like, as far as the recipe depends on it (host.look fills it in)."""

    uid: int
    gid: int
    privileged: bool
    """May write a map of many ids: root of its user namespace."""
    uids: str
    gids: str
    """Lines for uid_map and gid_map."""
    machine: str
    ipv6: bool
    landlock: int
    """ABI; 0: none."""
    fresh_proc: bool
    """The kernel will allow a /proc of our own: nothing masks parts of the present one (containers do)."""
    sockets: tuple[str, ...] = ()
    """Paths of Unix sockets bound at the moment."""
    present: frozenset[str] = frozenset()
    """Those of `places.CANDIDATES` that exist."""
    real: Mapping[str, str] = MappingProxyType({})
    """Their canonical paths, where those differ."""

    def where(self, path: str) -> str:
        """Canonical path of a candidate."""
        return self.real.get(path, path)

    @property
    def own_pids(self) -> bool:
        """Whether the jail gets a PID namespace.

        Root always, where it can: it could renice, and see, every process. A user only where Landlock cannot keep signals in:
        without one, CMD keeps its pid and its place in the process tree, and starts 4 ms sooner.
        """
        return self.fresh_proc and (self.privileged or self.landlock < LANDLOCK_SCOPES)


def check(request: JailRequest, host: Host) -> None:
    """Raises StartError where no jail that holds can be made, or where the request contradicts itself."""
    if host.machine not in seccomp.MACHINES:
        raise StartError(
            f"there is no system call table for {host.machine}", f"the jail is built for {' and '.join(seccomp.MACHINES)}"
        )
    if not host.own_pids and host.landlock < LANDLOCK_SCOPES:
        raise StartError(
            "nothing here can keep signals in the jail: no Landlock of Linux 6.12, and no /proc of its own",
            "use a newer kernel, or a container whose /proc is not masked; outpass doctor shows what there is",
        )
    for port in request.forward:
        if port in (EXPLICIT_PORT, TRANSPARENT_PORT, DNS_PORT):
            raise StartError(f"--forward {port}: the gate listens on port {port} of every jail", "let the program use another")
    for path in request.private:
        if below(request.cwd, path):
            raise StartError(f"the working directory lies in {path}, which is hidden in a jail", "change to another one")
    for path in request.allow_unix:
        inside = any(below(path, p) for p in request.private) or path in request.secret_files
        around = [v.path for v in places.veils(host.present, host.where, request) if below(v.path, path)]
        if inside or around:
            raise StartError(f"--allow-unix {path} would open what the jail hides", "name one socket, or a directory of sockets")


def enter(request: JailRequest, host: Host) -> list[Step]:
    """The steps up to and with the listeners. The doors that may be missing are `needed=False`."""
    names = ("user", "net", "mount", "ipc", *(("pid",) if host.own_pids else ()))
    done: list[Step] = [
        steps.Unshare(names),
        steps.MapIds(host.uids, host.gids, setgroups=host.privileged),
        steps.LoopbackUp(),
        steps.AnyAddress("ip4"),
    ]
    if host.ipv6:
        done.append(steps.AnyAddress("ip6"))
    return done + listeners(request.forward, host.ipv6)


def listeners(forward: Sequence[int], ipv6: bool) -> list[Step]:
    """The gate's doors. The explicit one must be there, or CMD would have a jail without any way out."""
    everywhere = "::" if ipv6 else _EVERYWHERE
    families = ("ip4", "ip6") if ipv6 else ("ip4",)
    doors: list[Step] = [
        steps.Listen("http", "tcp", "127.0.0.1", EXPLICIT_PORT, needed=True),
        steps.Listen("transparent", "tcp", everywhere, TRANSPARENT_PORT, transparent=True),
        steps.Listen("dns-udp4", "udp", _EVERYWHERE, DNS_PORT),
    ]
    if ipv6:
        doors.append(steps.Listen("dns-udp6", "udp", "::", DNS_PORT))
    doors.append(steps.Listen("dns-tcp", "tcp", everywhere, DNS_PORT))
    doors += [steps.Listen(f"forward:{port}", "tcp", "127.0.0.1", port, needed=True) for port in forward]
    return [*doors, steps.Intercept(TRANSPARENT_PORT, families), steps.Inspect()]


def walls(request: JailRequest, host: Host, door: Door, without: Sequence[str] = ()) -> list[Step]:
    """The steps from the daemon's answer to exec. `without`: doors that could not be made."""
    veils = _veils(request, host, door, without)
    allowed = (door.mint, *request.allow_unix)
    shown = [s for s in host.sockets if not hidden(s, veils) and not any(below(s, a) for a in allowed)]
    done: list[Step] = [steps.Detach()]
    if request.read_only:
        done.append(steps.Freeze(tuple(dict.fromkeys((request.cwd, "/dev", "/proc")))))
    protected = (*_in_force(request, door), *request.private, *request.secret_files)
    done += places.pins(protected, lambda path: hidden(path, veils))
    done += veils
    done += [steps.Mask(path) for path in (*shown, *request.secret_files) if path in shown or not hidden(path, veils)]
    done += places.trust(host.present, host.where, door)
    done += [steps.Bind(path, path) for path in _in_force(request, door) if not hidden(path, veils)]
    if "ip4" in without:
        done.append(steps.Bind(_resolver_file(door), host.where(places.RESOLVER)))
    done += places.as_root(host.present) if host.privileged else places.as_user(host.present)
    done.append(steps.Workdir(request.cwd))
    if host.own_pids:
        done += [steps.OwnPids(), steps.FreshProc()]
    if host.privileged:
        done += places.proc(host.present)
    done += _privileges(request, host)
    return done


def _veils(request: JailRequest, host: Host, door: Door, without: Sequence[str]) -> list[steps.Veil]:
    runtime = door.ca.rpartition("/")[0]
    # The directory of the socket, not the socket: the next daemon's appears in it.
    mint = door.mint.rpartition("/")[0]
    veils = [*places.veils(host.present, host.where, request), steps.Veil(runtime, 0o700)]
    # what is kept in it is public, or guards itself; root's jail has other users too, who must find whom to trust
    veils = [v._replace(mode=v.mode | 0o011) if below(runtime, v.path) else v for v in veils]
    keeps = [
        steps.Keep(door.mint if mint == runtime else mint),
        *(steps.Keep(path, read_only=True) for path in (door.ca, door.bundle, door.certs, door.java) if path),
        steps.Keep(f"{runtime}/maps", read_only=True, needed=False),
        *(steps.Keep(path) for path in (request.cwd, *request.roots, *request.allow_unix)),
        *(steps.Keep(path, read_only=True) for path in _in_force(request, door)),
        *(steps.Keep(path) for path in places.KEPT_IN_RUN if path in host.present),
    ]
    arranged = arrange(veils, keeps)
    files = [(_resolver_file(door), places.RESOLVER_TEXT)] if "ip4" in without else []
    target = host.where(places.RESOLVER)
    if hidden(target, arranged):  # systemd-resolved, resolvconf: /etc/resolv.conf leads into /run
        files.append((target, places.RESOLVER_TEXT))
    return [places.with_files(veil, files) for veil in arranged]


def _in_force(request: JailRequest, door: Door) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*request.policies, *door.files)))


def _resolver_file(door: Door) -> str:
    return f"{door.ca.rpartition('/')[0]}/resolv.conf"


def _privileges(request: JailRequest, host: Host) -> list[Step]:
    """Last, because each takes away what an earlier step needs."""
    done: list[Step] = [steps.DropCapabilities(KEPT_AS_ROOT if host.privileged else ()), steps.NoNewPrivileges()]
    if host.landlock >= LANDLOCK_SCOPES:
        done.append(steps.Scope())
    done.append(steps.Filter(host.machine, request.allow_userns))
    if host.own_pids:
        done.append(steps.Reaper())
    done.append(steps.CloseOthers(request.keep_fds))
    return done
