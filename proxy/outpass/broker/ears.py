"""Where audit records go from here: the store, the metrics, a jail's summary, and whoever listens to events.

Lives here: handing a record on, counting. May not live here: making a record (audit.record), writing it (audit.store).

Records come from two threads (the gate's over the control loop, the broker's own from the switchboard), so everything
here takes one lock for some microseconds. The store has its own thread: nothing here waits for a disk.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import prometheus_client as prometheus

from outpass.audit import export
from outpass.audit.record import readable
from outpass.model import Verdict
from outpass.reasons import ENTRIES, Reason

MAX_DENIALS: Final = 20
"""Distinct denials that a summary tells; the log has all. A sentence and a line to add take 2 KB at most, a packet 64."""
MAX_PACKAGES: Final = 1_000
"""Distinct `package` labels; names that code in a jail invents must not become time series without end."""

type Record = dict[str, Any]


class Store(Protocol):
    """What is needed of audit.store: take a record, from any thread, without waiting."""

    def append(self, record: Record) -> bool:
        """Queue one record for writing. False when it cannot be kept: then it must not have happened."""


class About(NamedTuple):
    """What only the broker knows about a record's jail and process."""

    label: str | None
    mode: str
    peer: Mapping[str, Any] | None
    summary: Summary | None
    degraded: tuple[str, ...] | None = None
    """What the jail does without: `no-jail`, or doors; None: there is no such jail any more."""


class Summary:
    """Counts of one jail, and its distinct denials; the shape is that of `audit.export.summary`.

    Kept while the jail lives, so that the end of a run does not wait for a disk to be read.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._denials: dict[str, dict[str, Any]] = {}
        self._more = 0

    def count(self, record: Record) -> None:
        """Take one record into account. Faults (an origin that is down) are not decisions and are counted apart."""
        if record.get("kind") == "fault":
            self._counts["fault"] += 1
            return
        # A closed tunnel's decision was counted when it opened. What a search list tries on its way is nobody's wish.
        if record.get("kind") == "close" or record.get("reason") == Reason.DNS_SEARCH:
            return
        verdict = str(record.get("verdict"))
        self._counts[verdict] += 1
        if verdict == Verdict.ALLOW.value:
            return
        sentence = export.sentence(record)
        if sentence in self._denials:
            self._denials[sentence]["count"] += 1
        elif len(self._denials) < MAX_DENIALS:
            add = record.get("add")
            hint = "" if add else _hint(record)  # where no line of the policy would help, something else may
            self._denials[sentence] = {"count": 1, "say": sentence, "add": add, "hint": hint}
        else:
            self._more += 1

    def recall(self, counts: Mapping[tuple[str, str], int], denials: Iterable[Record]) -> None:
        """Go on from what the log has of a jail (audit.query.of_jail)."""
        self._counts["fault"] += sum(n for (kind, _), n in counts.items() if kind == "fault")
        allowed = [n for (kind, verdict), n in counts.items() if kind not in ("fault", "close") and verdict == Verdict.ALLOW]
        self._counts[Verdict.ALLOW.value] += sum(allowed)
        for record in denials:
            if record.get("kind") != "fault":
                self.count(record)

    def as_dict(self) -> dict[str, Any]:
        """As the reply to `jail.close` carries it."""
        denials = list(self._denials.values())
        allowed, denied, would = (self._counts[verdict.value] for verdict in (Verdict.ALLOW, Verdict.DENY, Verdict.WOULD_DENY))
        return {
            "decisions": allowed + denied + would,
            "allowed": allowed,
            "denied": denied,
            "would_deny": would,
            "faults": self._counts["fault"],
            "denials": denials,
            "more": self._more,
            "lines": list(dict.fromkeys(one["add"] for one in denials if one["add"])),
        }


def _hint(record: Record) -> str:
    reason = record.get("reason")
    if reason == Reason.NO_RULE and record.get("source") == "gate" and record.get("scheme") == "dns":
        # Whose look-up it was is not known, so there is no line to show: a name is answered where somebody may go there.
        return f"add {record.get('host')} to the http or socket list of whoever is to reach it, a package or an exe:NAME"
    return ENTRIES[Reason(reason)].hint if isinstance(reason, str) and reason in set(Reason) else ""


class Metrics:
    """Prometheus series. Labels are package, capability, verdict and mode: never a host or a path, which are unbounded."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self._packages: set[str] = set()
        labels = ["package", "capability", "verdict", "mode"]
        made = prometheus.Counter
        self._decisions = made("outpass_decisions", "Decisions made.", labels, registry=self.registry)
        self._refusals = made("outpass_refusals", "Refused before a decision.", ["reason"], registry=self.registry)
        self._faults = made("outpass_faults", "Upstream faults.", ["reason"], registry=self.registry)
        self.gate_restarts = made("outpass_gate_restarts", "Gates that had to be replaced.", registry=self.registry)

    def gauge(self, name: str, text: str) -> prometheus.Gauge:
        """A new gauge."""
        return prometheus.Gauge(name, text, registry=self.registry)

    def count(self, record: Record, mode: str) -> None:
        """Count one record."""
        kind, reason = record.get("kind"), str(record.get("reason"))
        if kind == "close":
            return
        if kind == "fault":
            self._faults.labels(reason).inc()
        elif kind == "refusal":
            self._refusals.labels(reason).inc()
        else:
            package = self._package(str(record.get("principal") or "?"))
            self._decisions.labels(package, str(record.get("capability")), str(record.get("verdict")), mode).inc()

    def _package(self, name: str) -> str:
        if name.startswith("!"):
            return "!"
        if name in self._packages or len(self._packages) < MAX_PACKAGES:
            self._packages.add(name)
            return name
        return "other"


class Ears:
    """Takes every record once and hands it to all who want it."""

    def __init__(self, store: Store, about: Callable[[str, str | None], About]) -> None:
        """`about(jail id, session id)` says what only the broker knows."""
        self._store = store
        self._about = about
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Record], None]] = []
        self.metrics = Metrics()

    def take(self, record: Record) -> bool:
        """One record, from any thread. False when it is not kept: an unrecorded decision must not go through."""
        sid = record.get("sid")
        about = self._about(str(record.get("jail")), sid if isinstance(sid, str) else None)
        if record.get("label") is None and about.label is not None:
            record["label"] = readable(about.label)
        if record.get("peer") is None and about.peer is not None:
            record["peer"] = {k: v if isinstance(v, int) else readable(str(v)) for k, v in about.peer.items()}
        record["degraded"] = None if about.degraded is None else list(about.degraded)
        kept = self._store.append(record)
        with self._lock:
            self.metrics.count(record, about.mode)
            if about.summary is not None:
                about.summary.count(record)
            listeners = list(self._listeners)
        for listener in listeners:
            listener(record)
        return kept

    def listen(self, listener: Callable[[Record], None]) -> Callable[[], None]:
        """Call `listener` (from any thread, it must not block) for every record; returns how to stop that."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return stop
