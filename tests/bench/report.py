"""Writes PEERS.md and peers.svg from the figures of bench_peers: nothing in them is by hand.

Lives here: the tables, what is better and what is worse, the plot, the machine's description without its name. May not live here:
measuring.
"""

from __future__ import annotations

import json
import math
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
OURS, STOCK = "outpass", "mitmdump"
Figures = dict[str, dict[str, Any]]


class Table(NamedTuple):
    """One table: where its figures stand, and its columns as (key, heading, whether less is better)."""

    title: str
    path: tuple[str, ...]
    columns: tuple[tuple[str, str, bool], ...]


_CPU = ("cpu_us", "CPU, µs", True)
_BYTES = (("cpu_s_per_gb", "CPU, s/GB", True), ("mb_s", "MB/s", False))
_PLAIN = (
    _CPU, ("rps", "requests/s", False), ("p50_us", "p50, µs", True), ("p99_us", "p99, µs", True),
    ("added_p50_us", "added p50, µs", True), ("added_p99_us", "added p99, µs", True),
)  # fmt: skip
_BODY = (("over_idle_mib", "over idle, MiB", True), *_BYTES)
TABLES = (
    Table("Plain requests (absolute form, 1 KiB), one at a time", ("plain", "c1"), _PLAIN),
    Table("Plain requests, 32 at a time", ("plain", "c32"), _PLAIN),
    Table("CONNECT tunnel, set-up, one small exchange, end", ("tunnels", "set_up"), (_CPU, ("tunnels_s", "tunnels/s", False))),
    Table("CONNECT tunnel, 256 MiB", ("tunnels", "bytes"), _BYTES),
    Table("One plain answer of 256 MiB", ("bodies", "256 MiB"), _BODY),
    Table("One plain answer of 1 GiB", ("bodies", "1 GiB"), _BODY),
    Table(
        "16 clients that ask for 64 MiB and do not read",
        ("bodies", "slow readers"),
        (("over_idle_mib", "over idle, MiB", True), ("mib_each", "MiB each", True)),
    ),
    Table(
        "Idle, and 500 kept connections",
        ("idle",),
        (("rss_mib", "resident, MiB", True), ("kib_each", "KiB a connection", True)),
    ),
    Table(
        "Idle tunnels",
        ("idle_tunnels",),
        (("tunnels", "tunnels", False), ("kib_each", "KiB each", True), ("idle_cpu_percent", "CPU of all, %", True)),
    ),
)
PLOTTED = (("plain", "c32", "cpu_us", "µs of CPU a plain request"), ("tunnels", "set_up", "cpu_us", "µs of CPU a new tunnel"),
           ("tunnels", "bytes", "cpu_s_per_gb", "s of CPU a GB in a tunnel"))  # fmt: skip


class Bar(NamedTuple):
    """What was promised: our figure over a peer's, or on its own where `peer` is empty."""

    what: str
    path: tuple[str, ...]
    key: str
    peer: str
    at_most: float | None
    at_least: float | None


BARS = (
    Bar("plain requests, CPU", ("plain", "c32"), "cpu_us", STOCK, 0.5, None),
    Bar("tunnel, CPU a GB", ("tunnels", "bytes"), "cpu_s_per_gb", STOCK, 0.15, None),
    Bar("tunnel, MB/s", ("tunnels", "bytes"), "mb_s", STOCK, None, 4.0),
    Bar("tunnel, CPU a GB", ("tunnels", "bytes"), "cpu_s_per_gb", "Go", 1.2, None),
    Bar("tunnel, set-up, CPU", ("tunnels", "set_up"), "cpu_us", STOCK, 0.4, None),
    Bar("256 MiB body, over idle, MiB", ("bodies", "256 MiB"), "over_idle_mib", "", 20.0, None),
    Bar("256 MiB body, CPU a GB", ("bodies", "256 MiB"), "cpu_s_per_gb", STOCK, 0.35, None),
    Bar("resident when idle, MiB", ("idle",), "rss_mib", "", 100.0, None),
)


def machine() -> dict[str, Any]:
    """What may be known of where it ran."""
    model = next((x.partition(":")[2].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "unknown")
    memory = next((int(x.split()[1]) >> 20 for x in _lines("/proc/meminfo") if x.startswith("MemTotal")), 0)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load": [round(x, 2) for x in os.getloadavg()],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def write(results: dict[str, Any]) -> None:
    """PEERS.md and peers.svg from `results`, which has `when`, `machine` and `peers`."""
    found, where = results["peers"], results["machine"]
    text = [
        "# The gate beside other proxies", "",
        "Written by `make bench SECTION=peers` (bench_peers.py); do not edit. The peers, and how each is set up: peers.py.", "",
        f"{results['when']}: {where['processor']}, {where['cores']} cores, {where['memory_gib']} GiB, Linux {where['kernel']}, "
        f"Python {where['python']}; load average before and after: "
        f"{_loads(where)}. Above the number of cores, other work was going on: then only CPU can be compared, and only roughly.", "",
        "CPU is that of the proxy's whole process tree. Medians of interleaved rounds (bodies, memory: one). Generator and origin share the "
        "machine, so the rates of the fastest are theirs. Unlike: outpass checks a pass, a policy, and the address of every request and "
        "tunnel, and records it; mitmdump and proxy.py have no policy, the others one host; haproxy and Envoy forward to a fixed origin. "
        "For tunnels mitmdump runs with `--ignore-hosts .*`; Go is what goproxy does (hijack, two io.Copy) on the standard library.", "",
        "![CPU by peer](peers.svg)", "",
    ]  # fmt: skip
    text += ["## Bars", "", "| what | against | figure | bar | held |", "|---|---|---|---|---|"]
    text += [line for bar in BARS if (line := _bar(bar, found))] + [""]
    for table in TABLES:
        text += _table(table, found)
    for name, why in sorted(found.get("absent", {}).items()):
        text.append(f"- {name}: not measured: {why}")
    (HERE / "PEERS.md").write_text("\n".join(text).rstrip() + "\n")
    (HERE / "peers.svg").write_text(_plot(found))


def _loads(where: dict[str, Any]) -> str:
    return " and ".join(str(load[0]) for load in (where["load"], where.get("load_after", where["load"])))


def _at(found: dict[str, Any], path: tuple[str, ...]) -> Figures:
    for step in path:
        found = found.get(step, {})
    return found


def _bar(bar: Bar, found: dict[str, Any]) -> str:
    figures = _at(found, bar.path)
    ours, theirs = figures.get(OURS, {}).get(bar.key), figures.get(bar.peer, {}).get(bar.key) if bar.peer else 1.0
    if ours is None or not theirs:
        return f"| {bar.what} | {bar.peer or '–'} | not measured | | |"
    figure, sign = ours / theirs, " ×" if bar.peer else ""
    held = figure <= bar.at_most if bar.at_most is not None else bar.at_least is not None and figure >= bar.at_least
    limit = f"≤ {bar.at_most}" if bar.at_most is not None else f"≥ {bar.at_least}"
    return f"| {bar.what} | {bar.peer or '–'} | {figure:.3g}{sign} | {limit}{sign} | {'yes' if held else '**no**'} |"


def _table(table: Table, found: dict[str, Any]) -> list[str]:
    figures = _at(found, table.path)
    if not figures:
        return []
    shown = [c for c in table.columns if any(c[0] in f for f in figures.values())]
    lines = [f"## {table.title}", "", f"| proxy | {' | '.join(c[1] for c in shown)} |", "|---" * (len(shown) + 1) + "|"]
    for name, figure in figures.items():
        cells = [_number(figure.get(key)) for key, _, _ in shown]
        if (why := figure.get("failed") or figure.get("why")) is not None:
            cells[-1] += f" ({str(why)[:80]})".replace("|", "/")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", *_verdict(figures, shown), ""]


def _number(value: Any) -> str:
    """As it was measured, to four digits."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:.0f}"


def _verdict(figures: Figures, columns: list[tuple[str, str, bool]]) -> list[str]:
    """What of ours is better and what is worse, as ratios: ours to theirs."""
    ours, said = figures.get(OURS, {}), []
    for key, heading, less in columns:
        mine = ours.get(key)
        pairs = [(n, f[key]) for n, f in figures.items() if n not in (OURS, "no proxy") and isinstance(f.get(key), (int, float))]
        pairs = [(n, v) for n, v in pairs if v > 0]
        if not isinstance(mine, (int, float)) or not pairs or key in ("tunnels", "p50_us", "p99_us"):
            continue
        told = {word: [] for word in ("better than", "worse than")}  # type: dict[str, list[str]]
        for name, theirs in pairs:
            told["better than" if (mine < theirs) == less else "worse than"].append(f"{name} ({mine / theirs:.3g} ×)")
        said.append(f"- {heading}: " + "; ".join(f"{word} {', '.join(names)}" for word, names in told.items() if names))
    return said


def _plot(found: dict[str, Any]) -> str:
    """Bars on logarithmic scales, one panel for each of PLOTTED."""
    parts, y = [], 10
    for *path, key, title in PLOTTED:
        figures = {n: f[key] for n, f in _at(found, tuple(path)).items() if f.get(key, 0) > 0}
        if not figures:
            continue
        low, high = math.log10(min(figures.values())) - 0.3, math.log10(max(figures.values()))
        parts.append(f'<text x="10" y="{y + 14}" font-weight="bold">{title} (logarithmic; shorter is better)</text>')
        y += 22
        for name, value in sorted(figures.items(), key=lambda pair: pair[1]):
            width = 20 + 400 * (math.log10(value) - low) / max(high - low, 0.1)
            colour = "#0a7" if name == OURS else "#888"
            parts.append(
                f'<text x="150" y="{y + 13}" text-anchor="end">{name}</text>'
                f'<rect x="160" y="{y}" width="{width:.0f}" height="16" fill="{colour}"/>'
                f'<text x="{166 + width:.0f}" y="{y + 13}">{value:.4g}</text>'
            )
            y += 20
        y += 14
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{y}" font-family="sans-serif" font-size="13">'
    return "\n".join([head, f'<rect width="680" height="{y}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    write(json.loads((HERE / "results" / "peers.json").read_text()))
