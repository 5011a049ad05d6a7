"""The daemon: all rooms of the broker put together, started in order and ended in order.

Lives here: wiring, signals, reload, shutdown. May not live here: what any of the rooms does.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from outpass import upstream
from outpass.audit import record, store
from outpass.broker import journal as journals
from outpass.broker import keys, publish, resume, say, shown, trust
from outpass.broker.claims import Claims
from outpass.broker.control import Control, refusal_of
from outpass.broker.door import Door
from outpass.broker.ears import About, Ears
from outpass.broker.gates import Gates
from outpass.broker.jails import InForce, Jail, Jails
from outpass.broker.mint import Minter, Signer
from outpass.broker.names import Maps
from outpass.broker.native import Finder
from outpass.broker.questions import Questions
from outpass.broker.resolve import Lookups
from outpass.broker.rundir import MINT, RuntimeDir
from outpass.broker.serve import Options, Word
from outpass.broker.session import Session, Sessions
from outpass.broker.spawn import Child, Starter
from outpass.broker.switchboard import Switchboard, raise_descriptor_limit
from outpass.errors import EXIT_OK, OutpassError, StartError
from outpass.policy import names
from outpass.reasons import Reason

CA_LOOK_S: Final = 60.0
"""Seconds between two looks at the CA's age, by the wall clock, which may be set meanwhile."""
_FIELDS: Final = frozenset(record.FIELDS)


class Daemon:
    """One running daemon. Made and used on the event loop's thread."""

    def __init__(self, options: Options, runtime: RuntimeDir, env: Mapping[str, str], starter: Starter, word: Word) -> None:
        self._options = options
        self._word = word
        self._runtime = runtime
        self._env = env
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._shown_told = False
        self._reloading = asyncio.Lock()
        self._lost_gates = 0
        self.started = time.time()
        overrides = connect_to(options.connect_to)
        self._proxy = upstream.chosen(options.upstream_proxy, env)
        self.journal = journals.Journal(None if options.private_fd is not None else runtime.path / journals.NAME)
        self.keys = resume.begin(self.journal, runtime, datetime.datetime.now(datetime.UTC))
        spawn = Signer(self.keys.spawn_kid, self.keys.spawn_key)
        self._write_trust()
        self.jails = Jails(env, time.time, options.policy)
        self.store = store.Store(options.state or store.default_path(env), on_state=self._audit_state)
        self.ears = Ears(self.store, self._about)
        self.sessions = Sessions(self.jails, dict([spawn]), time.time, self._session_ended)
        self.sessions.on_open = lambda s: self.journal.note("session", s.jail.id, s.as_line())
        self.minter = Minter(self.keys.iss, Signer(self.keys.kid, self.keys.key), spawn, clock=time.time, take=self.ears.take)
        maps = Maps(runtime.maps)
        self.switchboard = Switchboard(runtime.bind(MINT, socket.SOCK_SEQPACKET), self.sessions, self.minter, maps)
        self.gates = Gates(
            start={
                "op": "start",
                "iss": self.keys.iss,
                "keys": self.keys.both(),
                "ca_key": self.keys.ca_key,
                "ca_cert": self.keys.ca_cert,
                "bundle": str(self._upstream),
                "connect_to": overrides,
                "upstream": None if self._proxy is None else self._proxy.message(),
            },
            spawn=starter.gate,
            spare=starter.spare,
            jails=lambda: [jail for jail in self.jails.by_id.values() if jail.live and not jail.closing],
            on_record=self._record,
            on_lost=self._gate_lost,
            on_question=lambda body, reply: self.desk.asked(body, reply),
            on_address=lambda jail, entry, gone: self.journal.note("address", jail.id, entry.as_line(), list(gone)),
        )
        self.rooms = resume.Rooms(self.journal, self.jails, self.gates, self.sessions, self.switchboard, maps, self.store.path)
        claims = Claims(time.monotonic)
        self.desk = Questions(self.jails, self.gates, Finder(self.sessions), claims)
        self.minter.lookups = Lookups(
            clock=time.time,
            ticks=time.monotonic,
            take=self.ears.take,
            tell=lambda *told: self._later(self.desk.tell, *told),
            background=self.switchboard.background,
            claims=claims,
        )
        self._control = Control(self, self._idle if options.private_fd is not None else None)

    def _write_trust(self) -> None:
        trusted, warnings = trust.operator_trust(self._env)
        for warning in warnings:
            say.warning(warning)
        upstream = trusted
        if self._options.upstream_ca is not None:
            upstream += trust.read_pem(self._options.upstream_ca, "the upstream CA file")
        ours = self.keys.ca_cert.encode()
        self._upstream = self._runtime.write("upstream.pem", upstream)
        self._ca = self._runtime.write("ca.pem", ours, public=True)
        # Programs too: in a tunnel that is not looked into they meet the origin's own certificate.
        programs = upstream + ours
        self._bundle = self._runtime.write("bundle.pem", programs, public=True)
        self._shown = self._loop.run_in_executor(None, shown.make, self._runtime.new_trust(), programs, ours)

    def notices(self) -> list[str]:
        """What every jail is told of how this daemon dials."""
        return [] if self._proxy is None else [self._proxy.notice]

    # -- what control and app ask ------------------------------------------------------------------------------------

    def paths(self) -> dict[str, str]:
        """As `jail.open` answers them."""
        mint = self._runtime.path / MINT
        return {"mint": str(mint), "ca": str(self._ca), "bundle": str(self._bundle)}

    async def shown(self) -> dict[str, str]:
        """What a kernel jail shows over the system's trust: `certs` and `java`, as `jail.open` answers them."""
        made = await self._shown
        for problem in made.problems if not self._shown_told else ():
            say.warning(problem)
        self._shown_told = True
        return {"certs": made.certs, "java": made.java}

    def publish(self, jail: Jail, ports: tuple[publish.Port, ...], leash: socket.socket) -> publish.Published:
        """Leave to publish; takes the leash. Raises StartError."""
        return publish.grant(jail, ports, leash, time.time(), self.ears.take)

    def renew_ca(self, now: datetime.datetime) -> None:
        """A new certificate of the same key, if it is time: for jails and gates that start from now on, and for new leaves."""
        if not self.keys.due(now):
            return
        self.keys = keys.renewed(self.keys, now)
        self.journal.begin(self.keys.kept())
        self._write_trust()
        self.gates.renew_ca(self.keys.ca_cert)

    async def _keep_ca(self) -> None:
        while True:
            await asyncio.sleep(CA_LOOK_S)
            try:
                self.renew_ca(datetime.datetime.now(datetime.UTC))
            except (OutpassError, OSError) as e:  # a full disk; there are months left
                say.error(f"the CA's certificate is not renewed: {e}")

    async def end_sessions(self, jail: Jail) -> None:
        """End all sessions of a jail; returns when no message of theirs will be answered any more."""
        done = self._loop.create_future()
        self.switchboard.end_jail(jail, lambda: self._later(done.set_result, None))
        await done

    async def revoke(self, sid: str) -> bool:
        """End a session by the operator's word; False when there is none."""
        done: asyncio.Future[bool] = self._loop.create_future()
        self.switchboard.revoke(sid, lambda found: self._later(done.set_result, found))
        return await done

    async def reload(self) -> dict[str, Any]:
        """Read every policy in force again. One that cannot be used leaves the last good one in force, and says so.

        All that can be used take force at one instant, in every gate (Gates.change).
        """
        async with self._reloading:
            read = [(jail, await self._read_again(jail)) for jail in list(self.jails.by_id.values())]
            # The whole policy, not its digest: the same rules on other lines must be cited where they stand now.
            changes = [(j, f) for j, f in read if isinstance(f, InForce) and f.policy != j.force.policy and not j.closing]
            try:
                await self.gates.change(changes)
            except OutpassError as e:
                read = [(jail, e) for jail, _ in read]
                changes = []
        changed = {jail.id for jail, _ in changes}
        for jail, _ in changes:
            self._recheck(jail)
        told = [self._reloaded(jail, found, jail.id in changed) for jail, found in read]
        bad = _faults_of([found for _, found in read if isinstance(found, OutpassError)])
        return {"ok": not bad, **bad, "jails": told}

    def _recheck(self, jail: Jail) -> None:
        for port in publish.recheck(jail, time.time(), self.ears.take):
            say.warning(f"{jail.id} ({jail.label}) may no longer listen on {port.inside}: nothing of it is published any more")

    async def _expire(self) -> None:
        """Ask again, from time to time, about published ports: a rule that expires ends what it allowed."""
        while True:
            await asyncio.sleep(publish.EXPIRE_S)
            for jail in list(self.jails.by_id.values()):
                self._recheck(jail)

    async def _read_again(self, jail: Jail) -> InForce | OutpassError:
        try:
            return await asyncio.to_thread(self.jails.load, jail.source)
        except OutpassError as e:
            return e

    def _reloaded(self, jail: Jail, found: InForce | OutpassError, changed: bool) -> dict[str, Any]:
        """What a reload says of one jail."""
        line = {"jail": jail.id, "label": jail.label, "digest": jail.force.digest, "mode": jail.force.mode, "changed": changed}
        if isinstance(found, InForce):
            return {**line, "warnings": list(found.warnings)[:20]}
        say.error(f"the policy of {jail.id} ({jail.label}) is not reloaded; the last good one stays in force")
        for text in found.message.splitlines():
            say.error(text)
        return {**line, "warnings": [], "error": found.message}

    # -- what other threads and the gate tell ------------------------------------------------------------------------

    def _later(self, work: Callable[..., Any], *args: Any) -> None:
        """Run on the loop, from any thread; nothing when the loop is gone already."""
        try:
            self._loop.call_soon_threadsafe(work, *args)
        except RuntimeError:
            pass

    def _about(self, jail_id: str, sid: str | None) -> About:
        jail = self.jails.by_id.get(jail_id)
        if jail is None:
            return About(None, "", None, None)
        session = self.sessions.by_sid(sid) if sid is not None else None
        peer = {"pid": session.process.pid, "uid": session.uid, "exe": session.exe} if session is not None else None
        return About(jail.label, jail.force.mode, peer, jail.summary, jail.degraded)

    def _session_ended(self, session: Session, revoked: bool) -> None:
        how = ("revoke", session.jail.id, session.sid, *session.process.key) if revoked else ("end", session.jail.id, session.sid)
        self.journal.note(*how)
        self._later(self.gates.end_session, session.jail.id, session.sid, revoked)

    def _audit_state(self, state: str) -> None:
        failing = state != "ok"
        self.minter.audit_failing = failing
        self._later(lambda: self.gates.audit(failing))
        if failing:
            say.error(f"decisions cannot be recorded in {self.store.path}, so none is made")
        else:
            say.warning(f"decisions are recorded again in {self.store.path}")

    def _gate_lost(self, how: str) -> None:
        self.ears.metrics.gate_restarts.inc()
        now = time.time_ns() // 1_000_000
        self._lost_gates += 1
        self.ears.take(
            record.refusal(
                Reason.GATE_LOST,
                kind="fault",
                id=f"{self.keys.kid}-gate-{self._lost_gates}",
                time_ms=now,
                jail="",
                source="broker",
                status=None,
                detail=f"a gate {how}; what was under way on it is cut off",
            )
        )

    def _record(self, found: Any) -> None:
        """One record of the gate's. It parses hostile traffic, so its word is checked for shape at least."""
        if not isinstance(found, dict) or found.keys() != _FIELDS or not isinstance(found["chain"], list):
            say.error("the gate sent a record that is none")
            return
        self.ears.take(found)

    # -- life --------------------------------------------------------------------------------------------------------

    def _idle(self) -> None:
        self._stop.set()

    def _signals(self) -> None:
        # A private daemon shares a terminal with CMD: ^C is for CMD, and its last records are still to be written.
        private = self._options.private_fd is not None
        self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self._loop.add_signal_handler(signal.SIGINT, (lambda: None) if private else self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: self._background(self.reload()))

    def _background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, children: Sequence[Child]) -> int:
        """From gates that were started to the end. Raises StartError when it, or one of them, cannot start."""
        admin = Door(self._runtime.bind("admin.sock", socket.SOCK_STREAM))
        self._signals()
        self.gates.adopt(children)
        try:
            await self.gates.wait_all()
            self.switchboard.start()
            if self._options.private_fd is not None:
                self._control.serve(socket.socket(fileno=self._options.private_fd))
            else:
                self._control.listen(self._runtime.bind("control.sock", socket.SOCK_SEQPACKET))
            self._say_ready()
            self._background(self._expire())
            self._background(self._keep_ca())
            if self._options.private_fd is not None:
                self._background(admin.open_when_asked(self))
            else:
                await admin.open(self)
            stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait([stopped, self.gates.failed], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if self.gates.failed.done():
                raise StartError(self.gates.failed.result(), "the gate's own last words are above; every request is refused")
            return EXIT_OK
        finally:
            await self._shut(admin)

    def _say_ready(self) -> None:
        control = None if self._options.private_fd is not None else str(self._runtime.path / "control.sock")
        said = {"ok": True, "pid": os.getpid(), "control": control, "admin": str(self._runtime.path / "admin.sock")}
        self._word.say({**said, **self.paths()})

    async def _shut(self, admin: Door) -> None:
        """The gates first: they finish what is under way and send their last records. The log last."""
        self.journal.freeze()
        self.jails.deaf()
        await self.gates.stop()
        await self._control.stop()
        await admin.close()
        await asyncio.wait([self._shown])  # it writes into the directory that is emptied next
        await asyncio.to_thread(self.switchboard.stop)
        resume.prune(self.journal)
        if self.journal.close():
            self._runtime.outlast()
        lost = await asyncio.to_thread(self.store.close)
        if lost:
            say.error(f"{lost} audit records could not be written to {self.store.path}")


def run(
    options: Options,
    runtime: RuntimeDir,
    env: Mapping[str, str],
    children: Sequence[Child],
    starter: Starter,
    word: Word,
) -> int:
    """Run a daemon with gates that were just started; `starter` starts the next one, should that be needed."""
    raise_descriptor_limit()

    async def whole() -> int:
        return await Daemon(options, runtime, env, starter, word).run(children)

    return asyncio.run(whole())


def _faults_of(problems: Sequence[OutpassError]) -> dict[str, Any]:
    """What a reload's reply says of policies that cannot be used: the first one's words, everybody's faults."""
    if not problems:
        return {}
    first = refusal_of(problems[0])
    faults = [fault for e in problems for fault in refusal_of(e).get("faults", ())]
    return {"error": first["error"], "hint": first["hint"] or "the last good policy stays in force", "faults": faults}


def connect_to(texts: tuple[str, ...]) -> list[list[str | int]]:
    """HOST:PORT:ADDR:PORT each, as the gate's start message carries them. StartError for anything else."""
    found: list[list[str | int]] = []
    for text in texts:
        try:
            left, right = _halves(text)
            host, port = names.authority(left, None)
            address, number = names.authority(right, None)
        except ValueError as e:
            raise StartError(f"--connect-to {text!r}: {e}", "write HOST:PORT:ADDR:PORT, IPv6 addresses in brackets") from None
        found.append([host, port, address, number])
    return found


def _halves(text: str) -> tuple[str, str]:
    """Split at the colon after the first port; colons in brackets do not count."""
    depth, colons = 0, 0
    for at, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        colons += character == ":" and depth == 0
        if colons == 2:
            return text[:at], text[at + 1 :]
    raise ValueError("it has too few parts")
