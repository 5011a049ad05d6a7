"""Starting CMD and waiting for it: fork, hold, exec, forward signals, hand on the exit code. With a jail or without.

Lives here: the launcher's side of the start, and the wait. May not live here: the environment (plan), the daemon, what happens
in the child on its way into the jail (inside).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from outpass.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, StartError
from outpass.jail import host as machine
from outpass.jail import inside, recipe, signals
from outpass.jail.plan import Door
from outpass.jail.recipe import Host, JailRequest

OpenJail = Callable[[list[str], list[str], list[int]], Door]
"""Kinds of the listeners, doors that there are not, descriptors of the listeners → the daemon's answer."""


def listener(port: int = 0) -> socket.socket:
    """The door of a run without a jail: a TCP listener on loopback that only this run's programs are told of.

    `port` 0 takes any free one. Raises StartError, for a port in use above all.
    """
    sock, finder = (socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(2))
    for each in (sock, finder):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        with finder:
            finder.bind(("127.0.0.1", port))
            # By its number: a port that the kernel chose is given up when the socket stops listening for a while (keeping.py).
            sock.bind(finder.getsockname())
        sock.listen(512)
    except OSError as bad:
        sock.close()
        hint = "name another --port, or leave it out for any free one" if port else "is the loopback interface up?"
        raise StartError(f"cannot listen on 127.0.0.1:{port}: {(bad.strerror or str(bad)).lower()}", hint) from None
    return sock


class NotStarted(Exception):
    """exec failed; `code` is what a shell would say (126 or 127)."""

    def __init__(self, command: str, number: int) -> None:
        self.code = EXIT_NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else EXIT_NOT_EXECUTABLE
        super().__init__(f"{command}: {os.strerror(number)}")


def _child(command: Sequence[str], env: Mapping[str, str], hold: int, failed: int) -> None:
    """In the child: waits until the parent has registered us, then becomes CMD. Never returns."""
    number = errno.ENOEXEC
    try:
        signals.as_before_python()
        os.read(hold, 1)
        os.execvpe(command[0], list(command), dict(env))
    except OSError as bad:
        number = bad.errno or number
    finally:
        os.write(failed, number.to_bytes(4, "little"))
        os._exit(EXIT_NOT_FOUND)


def run(command: Sequence[str], env: Mapping[str, str], register: Callable[[int], None], tend: signals.Tend | None = None) -> int:
    """Runs CMD to its end and returns its exit code (128 + N for a CMD that signal N killed, as shells do).

    `register` is called with CMD's pid while CMD is held before its exec: nothing of it runs unregistered. `tend` is what
    the launcher does while it waits (signals.wait_for). Raises NotStarted.
    """
    hold_read, hold_write = os.pipe()
    failed_read, failed_write = os.pipe()
    signals.expect_children()
    pid = os.fork()
    if pid == 0:
        os.close(hold_write)
        os.close(failed_read)
        _child(command, env, hold_read, failed_write)
    os.close(hold_read)
    os.close(failed_write)
    signals.pass_on(pid)
    try:
        register(pid)
    except BaseException:
        _end(pid)
        raise
    os.close(hold_write)  # EOF lets it go
    with os.fdopen(failed_read, "rb") as failed:
        number = failed.read(4)
    status = signals.wait_for(pid, tend=tend)
    if number:
        raise NotStarted(command[0], int.from_bytes(number, "little"))
    return signals.shell_code(status)


def run_jailed(
    command: Sequence[str],
    request: JailRequest,
    host: Host,
    environment: inside.Environment,
    open_jail: OpenJail,
    register: Callable[[int], None],
    tend: signals.Tend | None = None,
) -> int:
    """Runs CMD in a kernel jail to its end and returns its exit code, as `run` does.

    `open_jail` gets the listeners that were opened inside (their descriptors are closed here afterwards) and returns the door;
    `register` gets the pid of the process that becomes CMD, or whose descendant becomes CMD (processes.py), before it does.
    Single-threaded only. Raises StartError where there can be no jail: then nothing of CMD ran; NotStarted when exec fails.
    """
    recipe.check(request, host)
    machine.check_descriptors(request.keep_fds)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = os.getpid()
    signals.expect_children()
    pid = os.fork()
    if pid == 0:
        ours.close()
        inside.become(theirs, launcher, command, request, host, environment)
    theirs.close()
    signals.pass_on(pid)
    try:
        with ours:
            _attend(ours, pid, command[0], open_jail, register)
    except BaseException:
        _end(pid)
        raise
    return signals.shell_code(signals.wait_for(pid, tend=tend))


def _attend(channel: socket.socket, pid: int, name: str, open_jail: OpenJail, register: Callable[[int], None]) -> None:
    """Answers the child until it has become CMD (inside.py has the messages)."""
    door = False
    while True:
        packet, fds, _, _ = socket.recv_fds(channel, inside.PACKET, inside.MAX_DESCRIPTORS)
        if not packet and door:
            return
        try:
            message: dict[str, Any] = json.loads(packet) if packet else {}
            match message:
                case {"map": {"uids": str(uids), "gids": str(gids), "setgroups": bool(setgroups)}}:
                    answer: dict[str, Any] = {"errno": write_maps(pid, uids, gids, setgroups)}
                case {"listeners": list(kinds), "without": list(without)}:
                    opened = open_jail(kinds, without, fds)
                    register(pid)
                    door, answer = True, {"door": list(opened)}
                case {"not_started": int(number)}:
                    raise NotStarted(name, number)
                case {"failed": str(text), "hint": str(hint)}:
                    raise StartError(f"the jail cannot be made: {text}", hint)
                case _:
                    raise StartError("the jail cannot be made: its first process ended", "is there enough memory?")
        finally:
            for fd in fds:
                os.close(fd)
        channel.send(json.dumps(answer).encode())


def write_maps(pid: int, uids: str, gids: str, setgroups: bool) -> int:
    """The id maps of the user namespace that `pid` has just made; from outside, as only that may map many. Returns an errno."""
    maps = [("uid_map", uids), ("gid_map", gids)]
    try:
        for name, text in maps if setgroups else [("setgroups", "deny"), *maps]:
            with open(f"/proc/{pid}/{name}", "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as bad:
        return bad.errno or errno.EIO
    return 0


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
