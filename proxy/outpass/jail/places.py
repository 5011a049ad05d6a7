"""The places of a Linux system that a jail hides, replaces or makes read-only. Pure.

Lives here: the paths, each with its reason. May not live here: looking at the machine (host.py), the order (recipe.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from outpass.jail import steps
from outpass.jail.plan import Door
from outpass.jail.steps import Step, Veil
from outpass.jail.veils import below

if TYPE_CHECKING:
    from outpass.jail.recipe import JailRequest

Where = Callable[[str], str]

RUNTIME: Final = ("/run", "/var/run", "/mnt/wslg")
"""Sockets of everything: docker, containerd, podman, D-Bus, systemd-resolved (varlink), nscd, snapd, WSL's way out to
Windows. Each would carry traffic past the gate (nixpkgs#428554, firejail#7209); hidden whole, so also those made later."""

KEPT_IN_RUN: Final = (
    "/run/secrets",
    "/run/credentials",
    "/run/current-system",
    "/run/booted-system",
    "/run/opengl-driver",
    "/run/opengl-driver-32",
    "/run/wrappers",
)
"""Files that programs are given there: container and systemd secrets, and the programs themselves on NixOS."""

SHARED_MEMORY: Final = ("/dev/shm", "/dev/mqueue")  # noqa: S108
"""The IPC namespace in the form of files."""

TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108
FOLDERS_IN_RUN: Final = (("/run/lock", 0o1777),)

RESOLVER: Final = "/etc/resolv.conf"
RESOLVER_TEXT: Final = "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n"

BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Debian and Arch; Fedora and RHEL (two names); SUSE; Alpine."""
CERTIFICATES: Final = "/etc/ssl/certs"
JAVA_STORES: Final = ("/etc/ssl/certs/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts")
JAVA_STORE: Final = "lib/security/cacerts"
"""Below each Java's home; host.look adds those that it finds to what is present."""

DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
WAYS_OUT: Final = ("/dev/vsock", "/dev/vhost-vsock", "/dev/vhost-net", "/dev/net/tun")
"""Devices that lead to networks without a socket(2), for a user who may open them: masked. Root's /dev has none of them."""
SYS: Final = "/sys"
KEPT_IN_SYS: Final = ("/sys/devices/system", "/sys/fs/cgroup")
"""Number of processors, memory limits: language runtimes size themselves by these."""

PROC_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""Guarded by uid 0 alone, which the jail's root is: core_pattern runs a program outside (CVE-2022-0492 is a cousin)."""
PROC_MASKED: Final = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
)
PROC_VEILED: Final = ("/proc/acpi", "/proc/asound", "/proc/scsi")
"""The lists of runc and podman, who have looked longer than we."""

CANDIDATES: Final = (
    *RUNTIME,
    *KEPT_IN_RUN,
    *SHARED_MEMORY,
    *TEMPORARY,
    RESOLVER,
    *BUNDLES,
    CERTIFICATES,
    *JAVA_STORES,
    *(f"/dev/{name}" for name in DEVICES),
    *WAYS_OUT,
    SYS,
    *KEPT_IN_SYS,
    *PROC_READ_ONLY,
    *PROC_MASKED,
    *PROC_VEILED,
)


def veils(present: frozenset[str], where: Where, request: JailRequest) -> list[Veil]:
    """The directories to be hidden, in no order; what is kept of them is the caller's."""
    found = [Veil(where(p)) for p in RUNTIME if p in present]
    found = [v._replace(folders=FOLDERS_IN_RUN) if v.path == "/run" else v for v in found]
    found += [Veil(p, 0o1777) for p in SHARED_MEMORY if p in present]
    found += [Veil(p, 0o700) for p in (*request.private, *request.session)]
    if request.private_tmp or request.read_only:
        found += [Veil(where(p), 0o1777) for p in TEMPORARY if p in present]
    return found


def with_files(veil: Veil, files: Sequence[tuple[str, str]]) -> Veil:
    """`veil` with those of `files` (path, content) that lie below it."""
    return veil._replace(files=veil.files + tuple(f for f in files if below(f[0], veil.path)))


def trust(present: frozenset[str], where: Where, door: Door) -> list[Step]:
    """The outpass CA in the system's trust, for programs that no variable tells (wget, apt, Java)."""
    done: list[Step] = []
    replaced = bool(door.certs) and CERTIFICATES in present
    if replaced:
        done.append(steps.Bind(door.certs, where(CERTIFICATES)))
    java = [p for p in sorted(present) if p in JAVA_STORES or p.endswith(f"/{JAVA_STORE}")] if door.java else []
    stores = [(path, door.bundle) for path in BUNDLES if path in present] + [(path, door.java) for path in java]
    targets = {where(path): source for path, source in stores}
    done += [steps.Bind(s, t) for t, s in targets.items() if not (replaced and below(t, where(CERTIFICATES)))]
    return done


def pins(protected: Sequence[str], veiled: Callable[[str], bool]) -> list[Step]:
    """Every directory above what must not be replaced, as a mount of its own, outermost first.

    A mount point cannot be renamed, but the directory around it can: `mv project aside; mkdir project` would put another policy
    where the next run looks for one. A rename from such a directory to outside of it then fails with EXDEV, as between disks.
    """
    above = {parent for path in protected for parent in _parents(path) if not veiled(parent)}
    return [steps.Bind(path, path, read_only=False) for path in sorted(above, key=lambda p: (p.count("/"), p))]


def _parents(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]


def as_user(present: frozenset[str]) -> list[Step]:
    """A user's own part of /sys (a delegated control group) could kill processes outside: cgroup.kill knows no Landlock."""
    done: list[Step] = [steps.Mask(path) for path in WAYS_OUT if path in present]
    return done + ([steps.Bind(SYS, SYS)] if SYS in present else [])


def as_root(present: frozenset[str]) -> list[Step]:
    """What only the kernel's uid 0 must be kept from: devices, and the switches in /sys."""
    nodes = tuple(n for n in DEVICES if f"/dev/{n}" in present)
    kept = tuple(steps.Keep(p, read_only=True) for p in KEPT_IN_SYS if p in present)
    return [steps.MinimalDevices(nodes), Veil(SYS, 0o555, kept, read_only=True)]


def proc(present: frozenset[str]) -> list[Step]:
    """The same in /proc."""
    return [
        *(steps.Bind(p, p) for p in PROC_READ_ONLY if p in present),
        *(Veil(p, 0o555, read_only=True) for p in PROC_VEILED if p in present),
        *(steps.Mask(p) for p in PROC_MASKED if p in present),
    ]
