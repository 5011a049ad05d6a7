"""`outpass run -- CMD`: CMD with its own leave to use the network for each of its packages.

Lives here: the command's options and the order of its steps. May not live here: the environment and the exec (jail/), the
policy (files, policy/), what the summary says (cli.summary).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from outpass import upstream
from outpass.cli import enclosure, say
from outpass.cli.source import Choice, chosen, here
from outpass.errors import EXIT_OK, OutpassError, StartError, UsageError
from outpass.jail import daemon, host, keeping, launch, plan, publish, recipe

NO_JAIL = (
    "--no-jail: nothing but the shim and the proxy variables leads this program to the gate; native code, other programs that "
    "ignore the variables and code written against outpass can go around it. Loopback stays open"
)


def _inject() -> str:
    """The directory that holds the shim's sitecustomize, and nothing else."""
    spec = importlib.util.find_spec("outpass_shim")
    if spec is None or not spec.submodule_search_locations:
        raise StartError("the shim is not installed beside outpass", "install outpass-shim of the same version")
    return os.path.join(spec.submodule_search_locations[0], "inject")


def _daemon(connect_to: Sequence[str], upstream_ca: str | None, proxy: str | None, gates: int) -> daemon.Control:
    """The operator's daemon if there is one, else a private one. Gate configuration belongs to whoever owns the gate."""
    if path := os.environ.get("OUTPASS_SOCKET"):
        if connect_to or upstream_ca or proxy is not None or gates > 1:
            raise UsageError(
                "--connect-to, --upstream-ca, --upstream-proxy and --gates configure the gate, and $OUTPASS_SOCKET names "
                "somebody else's",
                "give them to outpass daemon, or unset OUTPASS_SOCKET",
            )
        return daemon.connect(path)
    options = [o for pair in connect_to for o in ("--connect-to", pair)]
    options += ["--upstream-ca", upstream_ca] if upstream_ca else []
    # Not on its command line, which everybody on the machine can read: the URL may hold a password.
    env = dict(os.environ) if proxy is None else {**os.environ, upstream.VARIABLE: proxy}
    return daemon.start_private(env, [*options, "--gates", str(gates)])


class _Opening:
    """How a jail is opened at the daemon: everything that is said to it but the listeners."""

    def __init__(
        self, control: daemon.Control, source: Choice, command: Sequence[str], roots: Sequence[str], quiet: bool
    ) -> None:
        self.control = control
        self.quiet = quiet
        self.roots = tuple(plan.roots(command, os.getcwd(), roots))
        self.message: dict[str, object] = {
            "op": "jail.open",
            "label": " ".join(command)[:200],
            "cwd": os.getcwd(),
            "roots": list(self.roots),
            "policy": source.message(),
        }
        self.publisher: publish.Publisher | None = None
        self.keeper: keeping.Keeper | None = None
        """Of a run under a daemon that others may follow."""
        if path := os.environ.get("OUTPASS_SOCKET"):
            self.keeper = keeping.Keeper(control, path, self._again, self._tell)

    def open(self, proxy: str, fds: Sequence[int], extra: Mapping[str, object]) -> plan.Door:
        """Hands the listeners over and returns the door; tells the policy's warnings."""
        self.message |= extra
        reply = self.control.ask(self.message, fds)
        self.message["again"] = reply["jail"]
        if self.keeper is not None:
            self.keeper.keep(fds)
        for warning in () if self.quiet else reply.get("warnings", ()):
            say.warning(str(warning))
        mint, ca, bundle = (os.path.realpath(reply[name]) for name in ("mint", "ca", "bundle"))
        also = {name: str(reply.get(name, "")) for name in ("certs", "java")}
        return plan.Door(proxy, mint, ca, bundle, files=tuple(reply.get("files", ())), **also)

    def _again(self, control: daemon.Control, fds: Sequence[int]) -> None:
        """For the Keeper: the same jail at the next daemon."""
        control.ask(self.message, fds)
        self.control = control
        try:
            if self.publisher is not None:
                self.publisher.again(self.publish)
        except OutpassError as e:  # as after a reload that takes the right away: the rest goes on
            self._tell("warning", f"nothing is published any more: {e.message}")

    def _tell(self, kind: str, text: str) -> None:
        if not self.quiet:
            (say.warning if kind == "warning" else say.note)(text)

    def register(self, pid: int) -> None:
        """`pid` and what descends from it belong to the jail."""
        self.control.ask({"op": "jail.proc", "pid": pid})

    def publish(self, ports: Sequence[publish.Port], leash: int) -> None:
        """For publish.Publisher.start: raises StartError where the policy grants it to nobody."""
        self.control.ask({"op": "jail.publish", "ports": [[port.address, port.inside] for port in ports]}, [leash])

    def jail(self, kinds: list[str], without: list[str], fds: list[int]) -> plan.Door:
        """For launch.run_jailed."""
        if not self.quiet:
            enclosure.warn_of_missing(without)
        explicit = f"127.0.0.1:{recipe.EXPLICIT_PORT}"
        return self.open(
            explicit, fds, {"kind": "jail", "listeners": kinds, "without": without, "search": host.search_list(os.environ)}
        )


def _start(opening: _Opening, command: Sequence[str], port: int, asked: enclosure.Options | None, source: Choice) -> int:
    """Runs CMD, in a jail when `asked` says what for. Returns its code; 126 or 127 when it could not be started."""
    inject = _inject()
    try:
        if asked is None:
            with launch.listener(port) as listening:
                address, number = listening.getsockname()
                door = opening.open(f"{address}:{number}", [listening.fileno()], {"kind": "no-jail"})
            return launch.run(command, plan.environment(os.environ, door, inject), opening.register, opening.keeper)
        request = enclosure.request(asked, opening.roots, source, os.environ)
        machine = host.look(os.environ)
        with contextlib.closing(publish.Publisher(enclosure.published(asked))) as publisher:

            def register(pid: int) -> None:
                opening.register(pid)
                opening.publisher = publisher
                publisher.start(pid, opening.publish)
                for port in () if opening.quiet else publisher.ports:
                    say.note(f"published: {port.shown} is {port.inside} of the jail")

            environment = lambda door: plan.environment(os.environ, door, inject)  # noqa: E731
            return launch.run_jailed(command, request, machine, environment, opening.jail, register, opening.keeper)
    except launch.NotStarted as failed:
        say.error(str(failed).lower())
        return failed.code


def _finish(control: daemon.Control, summary_file: str | None, base: Sequence[str], quiet: bool, code: int) -> None:
    """Ends the jail, and tells the person what was refused and which lines would allow it."""
    from outpass.cli import summary

    try:
        told: dict[str, Any] | None = control.ask({"op": "jail.close"})["summary"]
    except StartError as problem:
        say.failure(problem)
        told = None
    if summary_file:
        summary.write(summary_file, told, code, base)
    if told is not None and not quiet:
        summary.tell(told)


@click.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--policy", metavar="FILE", help="The policy to enforce (default: $OUTPASS_POLICY, else a trusted outpass.yaml).")
@click.option("--allow", metavar="[PKG=]URL", multiple=True, help="Allow this URL pattern, to PKG or to any; repeatable.")
@click.option("--deny-all", is_flag=True, help="Allow nothing.")
@click.option("--audit", is_flag=True, help="Let what the policy denies through, and record would_deny.")
@click.option("--no-jail", is_flag=True, help="Run without the kernel jail; says what that means.")
@click.option("--dry-run", is_flag=True, help="Print the steps of which the jail would be made, and start nothing.")
@enclosure.options
@click.option("--root", "roots", metavar="DIR", multiple=True, help="A directory of the application itself; repeatable.")
@click.option(
    "--summary",
    "summary_file",
    metavar="FILE",
    help="Counts, denials, lines to add: .json, .md, a policy as .yaml, or - for JSON.",
)
@click.option("--connect-to", metavar="HOST:PORT:ADDR:PORT", multiple=True, help="Dial ADDR:PORT for HOST:PORT; repeatable.")
@click.option("--upstream-ca", metavar="FILE", help="Also trust the CAs in this PEM file for origins.")
@click.option("--upstream-proxy", metavar="URL|none", help="The proxy to dial through (default: the *_PROXY variables).")
@click.option("--gates", type=click.IntRange(1, 64), default=1, help="Gate processes, for more than one core (default: 1).")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="With --no-jail: the gate's port (default: any free one).")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD…")
def command(
    policy: str | None,
    allow: tuple[str, ...],
    deny_all: bool,
    audit: bool,
    no_jail: bool,
    dry_run: bool,
    roots: tuple[str, ...],
    summary_file: str | None,
    connect_to: tuple[str, ...],
    upstream_ca: str | None,
    upstream_proxy: str | None,
    gates: int,
    port: int,
    quiet: bool,
    command: tuple[str, ...],
    **jail: Any,
) -> int:
    """Run CMD; every package in it reaches over the network only what the policy grants it.

    Exits with CMD's code; 125 when outpass itself fails, 126 when CMD cannot be executed, 127 when it is not found.
    """
    asked = enclosure.Options(**jail)
    if no_jail and (asked.given() or dry_run):
        raise UsageError(f"{(asked.given() or ['--dry-run'])[0]} is about the jail, and --no-jail makes none", "keep one")
    if port and not no_jail:
        raise UsageError("--port is for --no-jail: in a jail every port is free", "leave it out")
    enclosure.published(asked)  # text that makes no sense is said before anything starts
    source = chosen(policy, allow, deny_all, "audit" if audit else None, os.environ, here())
    if dry_run:
        enclosure.show(enclosure.request(asked, roots, source, os.environ), host.look(os.environ))
        return EXIT_OK
    if no_jail and not quiet:
        say.warning(NO_JAIL)
    with contextlib.closing(_daemon(connect_to, upstream_ca, upstream_proxy, gates)) as control:
        opening = _Opening(control, source, command, roots, quiet)
        code = _start(opening, command, port, None if no_jail else asked, source)
        with contextlib.closing(opening.control):
            _finish(opening.control, summary_file, source.base(), quiet, code)
    return code
