"""The steps of which a jail is made, as values: what is to be done, and one line that says it.

Lives here: one small immutable class a step, each with `say()`. May not live here: doing anything (apply.py and the
modules it calls), choosing or ordering steps (plan.py).

Steps are of two sorts. A *wall* keeps something in: when it cannot be built, there is no jail. A *door* leads to the gate:
when it cannot be built (`needed` is false), the jail reaches less, never more, and the launcher says which door is missing.

NamedTuples, not dataclasses: defining twenty dataclasses costs 6 ms of every launch, these 1 ms.
"""

from __future__ import annotations

from typing import NamedTuple


class Unshare(NamedTuple):
    """New namespaces for this process. Names: user net mount ipc pid."""

    namespaces: tuple[str, ...]

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"enter new namespaces: {', '.join(self.namespaces)}"


class MapIds(NamedTuple):
    """Ids inside = ids outside; done by the launcher, because only an outsider may write a map of many ids."""

    uids: str
    gids: str
    setgroups: bool
    """Whether groups may be changed inside. An ordinary user must give that up (user_namespaces(7), CVE-2014-8989)."""

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"map user ids {self.uids!r} and group ids {self.gids!r} to themselves"


class LoopbackUp(NamedTuple):
    """The only interface there will ever be."""

    def say(self) -> str:
        """One line for `--dry-run`."""
        return "bring up the loopback interface"


class AnyAddress(NamedTuple):
    """Every address of the family is local to the jail, so that nothing has anywhere else to go (AnyIP)."""

    family: str
    """`ip4` or `ip6`."""
    needed: bool = False

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"make every {self.family} address the jail's own"


class Listen(NamedTuple):
    """One of the gate's listeners, opened inside the jail's network namespace."""

    kind: str
    """As in `jail.open`: http, transparent, dns-udp4, dns-udp6, dns-tcp, forward:PORT."""
    transport: str
    """`tcp` or `udp`."""
    address: str
    port: int
    transparent: bool = False
    """May accept for addresses and ports that are not its own (IP_TRANSPARENT)."""
    needed: bool = False

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"listen for the gate: {self.kind} on {self.transport} {self.address} port {self.port}"


class Intercept(NamedTuple):
    """nftables in the jail's own network namespace: TCP to anywhere but loopback is accepted by `port`."""

    port: int
    families: tuple[str, ...]
    needed: bool = False

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"lead all TCP ({', '.join(self.families)}) but loopback's to port {self.port}"


class Inspect(NamedTuple):
    """The kernel's table of the jail's sockets, for the broker: which program holds a connection (sock_diag(7))."""

    needed: bool = False

    def say(self) -> str:
        """One line for `--dry-run`."""
        return "open the table of the jail's sockets for the daemon"


class Detach(NamedTuple):
    """No mount made here is seen outside."""

    def say(self) -> str:
        """One line for `--dry-run`."""
        return "keep every mount made here to ourselves"


class Keep(NamedTuple):
    """Something below a veil that stays visible, at its own path."""

    path: str
    read_only: bool = False
    needed: bool = True
    """False: it may be missing."""


class Veil(NamedTuple):
    """An empty directory of the jail's own over `path`, with only `keeps` of the old content in it."""

    path: str
    mode: int = 0o755
    keeps: tuple[Keep, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """Absolute path below `path` → content."""
    folders: tuple[tuple[str, int], ...] = ()
    """Absolute path below `path`, mode."""
    read_only: bool = False

    def say(self) -> str:
        """One line for `--dry-run`."""
        kept = ", ".join(k.path for k in self.keeps)
        return f"hide {self.path}" + (f", but for {kept}" if kept else "")


class Mask(NamedTuple):
    """/dev/null over one file or socket; it may be gone by then."""

    path: str

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"mask {self.path}"


class Bind(NamedTuple):
    """`source` shown at `target`; both exist."""

    source: str
    target: str
    read_only: bool = True
    needed: bool = True

    def say(self) -> str:
        """One line for `--dry-run`."""
        if self.source == self.target:
            return f"make {self.target} read-only" if self.read_only else f"keep {self.target} where it is"
        return f"show {self.source} at {self.target}" + (", read-only" if self.read_only else "")


class Freeze(NamedTuple):
    """Every mount read-only but those named."""

    writable: tuple[str, ...]

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"make all files read-only, but for {', '.join(self.writable)}"


class MinimalDevices(NamedTuple):
    """A /dev with these nodes, terminals and shared memory of its own, and nothing else."""

    nodes: tuple[str, ...]

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"a /dev of its own: {' '.join(self.nodes)}"


class FreshProc(NamedTuple):
    """A /proc that shows the jail's processes only."""

    def say(self) -> str:
        """One line for `--dry-run`."""
        return "a /proc of its own"


class Workdir(NamedTuple):
    """Enter the working directory again by its path: the old handle would lead below the veils."""

    path: str

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"enter {self.path}"


class OwnPids(NamedTuple):
    """Fork: the child is the first process of the new PID namespace; this one waits outside of it."""

    def say(self) -> str:
        """One line for `--dry-run`."""
        return "become the first process of a new PID namespace"


class Reaper(NamedTuple):
    """Fork: the first process stays, buries orphans and passes signals on; CMD is its child.

    CMD itself must not be number 1: the kernel gives number 1 no default signal handlers (pid_namespaces(7)).
    """

    def say(self) -> str:
        """One line for `--dry-run`."""
        return "leave a process behind that buries orphans"


class DropCapabilities(NamedTuple):
    """All but `keep` (numbers of linux/capability.h), from every set; none to keep also locks the securebits."""

    keep: tuple[int, ...]

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"drop every capability but {len(self.keep)} that mean nothing outside" if self.keep else "drop every capability"


class NoNewPrivileges(NamedTuple):
    """Set-user-id programs give nothing any more."""

    def say(self) -> str:
        """One line for `--dry-run`."""
        return "no new privileges by exec"


class Scope(NamedTuple):
    """Landlock: no signals to, and no abstract sockets of, processes outside."""

    def say(self) -> str:
        """One line for `--dry-run`."""
        return "signals and abstract sockets end at the jail (Landlock)"


class Filter(NamedTuple):
    """The seccomp filter."""

    machine: str
    allow_userns: bool

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"filter system calls ({self.machine})" + (", user namespaces allowed" if self.allow_userns else "")


class CloseOthers(NamedTuple):
    """Every descriptor but 0, 1, 2 and `keep` is closed by exec."""

    keep: tuple[int, ...]

    def say(self) -> str:
        """One line for `--dry-run`."""
        return f"close every descriptor but {', '.join(map(str, (0, 1, 2, *self.keep)))}"


type Step = (
    Unshare
    | MapIds
    | LoopbackUp
    | AnyAddress
    | Listen
    | Intercept
    | Inspect
    | Detach
    | Veil
    | Mask
    | Bind
    | Freeze
    | MinimalDevices
    | FreshProc
    | Workdir
    | OwnPids
    | Reaper
    | DropCapabilities
    | NoNewPrivileges
    | Scope
    | Filter
    | CloseOthers
)
