"""Chaos and soak: real clients behind one daemon at full load, everything that can break breaking, and then the reckoning.

Lives here: who runs when, what is broken when, what is measured. May not live here: servers (origins.py), processes (processes.py),
the verdict (judge.py). `make soak MINUTES=30`; tests/e2e/test_soak.py runs it for some seconds.

First part: gates and daemons are killed too. Second part, under a fresh daemon: only what must leave no trace (bad origins, killed
clients, reloads); what broker and gate hold before and after is compared while nothing is under way.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outpass import files
from outpass.audit import store
from outpass.policy import decide
from outpass.policy.compiled import Compiled
from tests.soak.judge import Asked, Verdict, judge
from tests.soak.origins import Origins
from tests.soak.processes import Daemon, Held, interpreter
from tests.support.jailed import impossible
from tests.support.runs import stacks
from tests.support.waiting import until

CLIENT: Final = Path(__file__).with_name("client.py")
KINDS: Final = ("requests", "urllib", "httpx1", "httpx2", "aiohttp", "websockets", "grpc", "curl")
RSS_GROWTH_KIB: Final = 40 * 1024
_HOSTS: Final = ("h1.soak.test", "h2.soak.test", "ws.soak.test", "rpc.soak.test")


def _grant(denied: Sequence[str]) -> str:
    hosts = ", ".join(f'"https://{host}/**"' for host in _HOSTS)
    not_these = ", ".join(f'"https://{host}/{what}/**"' for host in _HOSTS for what in denied)
    return f"{{allow: [network:http], http: [{hosts}], deny: {{http: [{not_these}]}}}}"


POLICIES: Final = tuple(
    f'version: 1\ninclude: [preset:http-clients]\npackages:\n  app: {_grant(denied)}\n  "exe:curl": {_grant(denied)}\n'
    for denied in (("no",), ("no", "toggle"))
)


@dataclass
class Soak:
    """`Soak(where, say).run(seconds)` → Verdict."""

    where: Path
    say: Callable[[str], None]
    kinds: Sequence[str] = KINDS
    kills: list[float] = field(default_factory=list)
    runs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    _started: int = 0

    def run(self, seconds: float) -> Verdict:
        """The whole of it."""
        self.rng = random.Random(int(seconds))
        self.policy = self.where / "project" / "outpass.yaml"
        self.policy.parent.mkdir(parents=True)
        shutil.copy(CLIENT, self.policy.parent / "main.py")
        self.logs = self.where / "logs"
        self.logs.mkdir()
        self.jail = not impossible(os.getuid())
        with Origins() as origins:
            bundle = self.where / "ca.pem"
            assert origins.h1.ca is not None
            origins.h1.ca.cert_pem.write_to_path(str(bundle))
            self.daemon = Daemon(
                self.where, interpreter(self.where / "venv"), [*origins.connect_to(), "--upstream-ca", str(bundle)]
            )
            policies = self._policies()
            try:
                self._violent(seconds * 0.4)
                before, after = self._calm(seconds * 0.6)
            finally:
                self._kill_clients()
                if self.daemon.process.poll() is None:
                    self.daemon.kill()
            arrived = origins.arrived()
        records = list(store.read(Path(self.daemon.env["OUTPASS_STATE"])))
        verdict = judge(self._asked(), arrived, records, policies, self.kills)
        self._leaks(verdict, before, after)
        said = self.daemon.errors.read_text()
        verdict.say("tracebacks", [said[said.index("Traceback") :][:2_000]] if "Traceback" in said else [])
        verdict.figures |= {"seconds": seconds, "jail": self.jail, "chaos": self.counts}
        return verdict

    def _policies(self) -> dict[str, Compiled]:
        found = {}
        for text in POLICIES:
            self.policy.write_text(text)
            loaded = files.load(files.Source(self.policy), env=self.daemon.env)
            found[loaded.digest] = decide.compile(loaded.policy)
        assert len(found) == len(POLICIES)
        return found

    # --- the two parts -----------------------------------------------------------------------------------------------

    def _violent(self, seconds: float) -> None:
        self.daemon.start()
        self._start_clients()
        end = time.monotonic() + seconds
        middle = time.monotonic() + seconds / 2
        while (now := time.monotonic()) < end:
            time.sleep(min(1.5, seconds / 6))
            if now > middle > 0:
                middle = 0.0
                self.kills.append(self.daemon.kill())
                self._count("daemon killed")
                self._stop_clients(hard=True)
                self.daemon.start()
                self._start_clients()
            elif self.rng.random() < max(0.05, 3 / seconds):  # more often, and the broker waits longer before each new gate
                self.kills.append(self.daemon.kill_gate(self.rng))
                self._count("gate killed")
            else:
                self._disturb()
        self._stop_clients()
        assert self.daemon.end() == 0, "the daemon does not end on SIGTERM"

    def _calm(self, seconds: float) -> tuple[dict[str, Held], dict[str, Held]]:
        self.daemon.start()
        self._load(seconds * 0.25)
        before = self._idle()
        self._load(seconds * 0.75)
        after = self._idle()
        assert self.daemon.end() == 0, "the daemon does not end on SIGTERM"
        return before, after

    def _load(self, seconds: float) -> None:
        self._start_clients()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(1.5, seconds / 4))
            self._disturb()
        self._stop_clients()

    def _disturb(self) -> None:
        """Something that must not cost anybody anything: a reload, or a client that dies and comes back."""
        if self.rng.random() < 0.6:
            self.policy.write_text(self.rng.choice(POLICIES))
            assert self.daemon.reload() in (0, 1), "reload failed"
            self._count("reload")
            return
        name = self.rng.choice(list(self.runs))
        self._end(self.runs.pop(name), signal.SIGKILL)
        self._count("client killed")
        self._start(name.partition(".")[0])

    def _idle(self) -> dict[str, Held]:
        """What is held once nothing is under way: the figures have to stand still first."""
        last: list[tuple[int, int]] = []

        def still() -> dict[str, Held] | None:
            nonlocal last
            held = self.daemon.held()
            now = [(h.descriptors, h.tasks) for h in held.values()]
            same, last = now == last, now
            time.sleep(1)
            return held if same else None

        held: dict[str, Held] = until("the daemon comes to rest", still, 60)
        self.say(f"at rest: {_short(held)}")
        return held

    # --- clients -----------------------------------------------------------------------------------------------------

    def _start_clients(self) -> None:
        (self.where / "stop").unlink(missing_ok=True)
        for kind in self.kinds:
            self._start(kind)

    def _start(self, kind: str) -> None:
        self._started += 1
        name = f"{kind}.{self._started}"
        inside = [] if self.jail and self._started % 2 else ["--no-jail"]
        command = [str(self.daemon.python), "-m", "outpass", "run", "-q", "--policy", "outpass.yaml", *inside, "--"]
        command += [str(stacks()), "main.py", kind, name, str(self.logs / f"{name}.txt"), str(self.where / "stop")]
        with (self.where / "clients.txt").open("ab") as said:
            self.runs[name] = subprocess.Popen(
                command, cwd=self.policy.parent, env=self.daemon.env, stdout=said, stderr=said, start_new_session=True
            )

    def _stop_clients(self, *, hard: bool = False) -> None:
        """Tell them to stop and wait; they finish what is under way."""
        (self.where / "stop").touch()
        end = time.monotonic() + 60
        for process in self.runs.values():
            if hard:
                self._end(process, signal.SIGKILL)
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._count("client that did not stop")
                self._end(process, signal.SIGKILL)
        self.runs.clear()

    def _kill_clients(self) -> None:
        for process in self.runs.values():
            self._end(process, signal.SIGKILL)

    @staticmethod
    def _end(process: subprocess.Popen[bytes], how: int) -> None:
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            pass
        process.wait(30)

    # --- the books ---------------------------------------------------------------------------------------------------

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _asked(self) -> list[Asked]:
        found = []
        for log in self.logs.iterdir():
            for line in log.read_text().splitlines():
                parts = line.split(" ")
                if len(parts) == 6:  # a killed client's last line may be cut
                    found.append(Asked(float(parts[0]), float(parts[1]), (parts[2], parts[3], parts[4]), parts[5]))
        return found

    def _leaks(self, verdict: Verdict, before: dict[str, Held], after: dict[str, Held]) -> None:
        verdict.figures["held"] = {"before": _short(before), "after": _short(after)}
        for name, then in before.items():
            now = after.get(name, then)
            grown: list[Any] = []
            if now.descriptors > then.descriptors + 4:
                grown.append(f"descriptors {then.descriptors} → {now.descriptors}")
            if now.tasks > then.tasks + 2:
                grown.append(f"tasks {then.names} → {now.names}")
            if now.rss_kib > then.rss_kib + RSS_GROWTH_KIB:
                grown.append(f"RSS {then.rss_kib} → {now.rss_kib} KiB")
            verdict.say(f"leaks of the {name}", grown)


def _short(held: dict[str, Held]) -> str:
    return json.dumps({name: h._asdict() | {"names": None} for name, h in held.items()}).replace(', "names": null', "")
