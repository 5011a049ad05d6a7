"""What a decision costs with 10, 1 000, 10 000 and 100 000 rules, and what loading that many costs.

Lives here: CPU time on one core, medians over rounds; the request's rule is the last of the policy. May not live here: the
gate around it. Budget: at most 3 µs at 10 000 rules, and at 100 000 at most 1.2 times the cost at 10.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from outpass.model import EgressRequest
from outpass.policy import decide, wire
from outpass.policy.rules import Package, Policy, Rule

SIZES = (10, 1_000, 10_000, 100_000)
PER_PACKAGE = 10
ROUNDS, CALLS = 40, 1_000
HTTP = "network:http"


def policy(size: int, *, one_host: bool = False) -> Policy:
    """`size` rules, ten a package; or all of one package and one host, told apart by their paths."""
    if one_host:
        rules = tuple(
            Rule("p.yaml", n, "https", "api.example.com", 443, 443, f"/v1/r{n}/**", ("GET", "POST")) for n in range(size)
        )
        return Policy(packages={"p0": Package("p0", "p.yaml", 1, frozenset({HTTP}), {HTTP: rules})})
    packages = {}
    for number in range(size // PER_PACKAGE):
        rules = tuple(
            Rule("p.yaml", n, "https", f"h{n}.s{number}.example.com", 443, 443, "/v1/**", ("GET", "POST"))
            for n in range(PER_PACKAGE)
        )
        packages[f"p{number}"] = Package(f"p{number}", "p.yaml", number, frozenset({HTTP}), {HTTP: rules})
    return Policy(transparent=("requests", "urllib3"), packages=packages)


def request(name: str, host: str, path: str = "/v1/charges/ch_1", method: str = "POST") -> EgressRequest:
    """As a gate makes it: after resolution, with a chain of two."""
    return EgressRequest(HTTP, (name, "app"), ("11.4.0", None), "https", host, 443, method, path, ("93.184.215.14",))


def cost(compiled: decide.Compiled, asked: EgressRequest) -> float:
    """Median CPU time of one decision, in microseconds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        for _ in range(CALLS):
            decide.decide(compiled, asked, now=0.0)
        rounds.append((time.process_time_ns() - began) / CALLS / 1000)
    return statistics.median(rounds)


def loading(size: int) -> dict[str, float]:
    """Seconds of CPU to parse, load and compile a policy from its JSON, and the MB it takes, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_decide", str(size)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _load_here(size: int) -> dict[str, float]:
    text = json.dumps(wire.dump(policy(size)))
    rss = _resident()
    began = time.process_time()
    compiled = decide.compile(wire.load(json.loads(text)))
    seconds = time.process_time() - began
    assert compiled.digest
    return {"load_s": round(seconds, 3), "mb": round((_resident() - rss) / 1024, 1)}


def _resident() -> float:
    """KiB."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(float(line.split()[1]) for line in status if line.startswith("VmRSS"))


def run() -> dict[str, Any]:
    """The table, printed, and its figures."""
    print(f"{'rules':>8} {'allow':>8} {'one host':>9} {'denial':>8} {'load':>8}   µs of CPU a decision, s to load")
    table: dict[str, Any] = {}
    for size in SIZES:
        last = size // PER_PACKAGE - 1
        compiled = decide.compile(policy(size))
        hit = request(f"p{last}", f"h{PER_PACKAGE - 1}.s{last}.example.com")
        assert decide.decide(compiled, hit, now=0.0).allowed
        one = decide.compile(policy(size, one_host=True))
        deep = request("p0", "api.example.com", f"/v1/r{size - 1}/x")
        assert decide.decide(one, deep, now=0.0).allowed
        row = {
            "allow_us": round(cost(compiled, hit), 3),
            "one_host_us": round(cost(one, deep), 3),
            "denial_us": round(cost(compiled, hit._replace(host="evil.example.net")), 3),
            **loading(size),
        }
        table[str(size)] = row
        print(f"{size:>8} {row['allow_us']:>8} {row['one_host_us']:>9} {row['denial_us']:>8} {row['load_s']:>8}", flush=True)
    ratio = table["100000"]["allow_us"] / table["10"]["allow_us"]
    table["ratio_100000_to_10"] = round(ratio, 3)
    print(f"100 000 rules cost {ratio:.2f} times what 10 cost; they take {table['100000']['mb']} MB")
    return table


if __name__ == "__main__":
    print(json.dumps(_load_here(int(sys.argv[1]))))
