"""What the options of `run` ask of the kernel jail, and what must stay out of CMD's sight.

Lives here: the jail's options, and the JailRequest they make. May not live here: the recipe (jail.recipe), carrying it out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import click

from outpass.cli import say
from outpass.cli.source import Choice
from outpass.errors import UsageError
from outpass.jail import host, publish, recipe
from outpass.jail.plan import Door

MISSING: Final = {
    "transparent": "programs that do not use the proxy variables reach nothing: this kernel has no nftables tproxy",
    "ip4": "programs that do not use the proxy variables reach nothing: this kernel cannot make every address local",
    "sockets": "rules for programs (exe:) and for C libraries grant nothing: this kernel does not say who holds a connection",
    "ip6": "IPv6 addresses are unreachable, even through the gate's transparent listener",
}
"""A door that could not be made → what that means. The jail reaches less, never more."""
FILTERED: Final = (
    "this run lies within another outpass run, or a container, whose system call filter refuses nftables: programs that do not "
    "use the proxy variables reach nothing, and rules for programs (exe:) grant nothing"
)


class Options(NamedTuple):
    """The jail's options as they were typed."""

    allow_unix: tuple[str, ...] = ()
    private_tmp: bool = False
    read_only: bool = False
    allow_userns: bool = False
    keep_fd: tuple[int, ...] = ()
    forward: tuple[int, ...] = ()
    publish: tuple[str, ...] = ()

    def given(self) -> list[str]:
        """Names of those that were given at all."""
        return [f"--{name.replace('_', '-')}" for name in self._fields if getattr(self, name)]


def options[F: Callable[..., object]](command: F) -> F:
    """The jail's options, on a click command."""
    port = click.IntRange(1, 65535)
    for option in (
        click.option("--allow-unix", metavar="PATH", multiple=True, help="Leave this Unix socket reachable; repeatable."),
        click.option("--private-tmp", is_flag=True, help="Give CMD an empty /tmp and /var/tmp of its own."),
        click.option("--read-only", is_flag=True, help="CMD writes to its working directory and a private /tmp only."),
        click.option("--allow-userns", is_flag=True, help="Let CMD make sandboxes of its own (bwrap, Chrome)."),
        click.option("--keep-fd", type=click.IntRange(3), multiple=True, help="Hand this descriptor on; repeatable."),
        click.option("--forward", type=port, multiple=True, help="127.0.0.1:PORT inside is the host's, if the policy says so."),
        click.option(
            "--publish", metavar="[HOST:]PORT[:PORT]", multiple=True, help="Make a port inside reachable, if the policy says so."
        ),
    ):
        command = option(command)
    return command


def request(asked: Options, roots: tuple[str, ...], source: Choice, env: Mapping[str, str]) -> recipe.JailRequest:
    """The jail that a run asks for. Call it when the daemon is up: what must be hidden exists by then."""
    log = env.get("OUTPASS_STATE", "")
    beside = [f"{log}{suffix}" for suffix in ("", "-wal", "-shm", "-journal") if log]
    return recipe.JailRequest(
        cwd=os.path.realpath(os.getcwd()),
        roots=host.canonical(r for r in roots if os.path.isdir(r)),
        private=host.canonical(d for d in _own_directories(env) if os.path.isdir(d)),
        session=host.canonical(d for d in (env.get("XDG_RUNTIME_DIR", ""),) if os.path.isdir(d)),
        secret_files=host.canonical(f for f in beside if os.path.exists(f)),
        policies=host.canonical([str(source.file)] if source.file else []),
        allow_unix=_sockets(asked.allow_unix),
        private_tmp=asked.private_tmp,
        read_only=asked.read_only,
        allow_userns=asked.allow_userns,
        keep_fds=tuple(sorted(set(asked.keep_fd))),
        forward=tuple(dict.fromkeys(asked.forward)),
    )


def published(asked: Options) -> list[publish.Port]:
    """The ports of `--publish`. Raises UsageError for text that is none, and for one that is named twice."""
    ports = [publish.parse(text) for text in asked.publish]
    for number, port in enumerate(ports):
        if port.outside and port[:2] in [p[:2] for p in ports[:number]]:
            raise UsageError(f"--publish {port.shown} is given twice", "keep one")
    return ports


def _own_directories(env: Mapping[str, str]) -> list[str]:
    """Runtime, state and trust of outpass: with them, code in the jail could be its own operator."""
    home = env.get("HOME") or str(Path.home())
    trust = os.path.join(env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "outpass")
    with contextlib.suppress(OSError):  # where it is missing, code in the jail could make it; where we cannot, neither can that
        os.makedirs(trust, 0o700, exist_ok=True)
    found = [
        env.get("OUTPASS_RUNTIME", ""),
        os.path.dirname(env.get("OUTPASS_SOCKET", "")),
        os.path.join(env.get("XDG_RUNTIME_DIR") or "/nowhere", "outpass"),
        *(os.path.join(place, f"outpass-{os.getuid()}") for place in _temporary(env)),
        trust,
        os.path.join(env.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state"), "outpass"),
    ]
    return [d for d in found if d]


def _temporary(env: Mapping[str, str]) -> list[str]:
    """Every directory that Python's tempfile might choose; importing it to hear which would cost a tenth of the start."""
    return [*(env.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")), "/tmp", "/var/tmp", "/usr/tmp", os.getcwd()]  # noqa: S108


def _sockets(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if not os.path.exists(path):
            raise UsageError(f"--allow-unix {path}: there is no such socket", "start its server first, or name its directory")
    return host.canonical(paths)


def warn_of_missing(without: list[str]) -> None:
    """Say which doors there are not, and what that means."""
    filtered = {"transparent", "sockets"}
    if filtered <= set(without) and host.netlink_is_filtered():
        say.warning(FILTERED)
        without = [name for name in without if name not in filtered]
    for name in without:
        say.warning(MISSING.get(name, f"the jail has no {name} listener"))


def show(request: recipe.JailRequest, machine: recipe.Host) -> None:
    """`--dry-run`: every step, in order, on standard output."""
    recipe.check(request, machine)
    runtime = request.private[0] if request.private else "/run/outpass"
    door = Door("", f"{runtime}/mint.sock", f"{runtime}/ca.pem", f"{runtime}/bundle.pem")
    for step in (*recipe.enter(request, machine), *recipe.walls(request, machine, door)):
        click.echo(step.say())
