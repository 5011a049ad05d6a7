"""What one decision costs besides deciding: its pass (mint, verify, burn) and its record (make, append, write).

Lives here: in-process costs on one core, the least of several runs, and the writer's throughput. May not live here: the
round trip to the broker (bench_mint), the gate.
"""

from __future__ import annotations

import json
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outpass.audit import record, store
from outpass.model import Capability, Decision, EgressRequest, RuleRef, Verdict
from outpass.passes import ledger, token
from outpass.reasons import Reason

RECORDS = 20_000
KEY = b"k" * 32
PASS = token.Pass(
    jail="j-7d0e4c11",
    sub="pkg:pypi/stripe@11.4.0",
    chain=("stripe", "app"),
    versions=("11.4.0", None),
    sid="s-3f9c1a2b",
    use="request",
    cap="network:http",
    host="api.stripe.com",
    port=443,
    serial=17,
    iat=1_763_770_000,
    exp=1_763_770_030,
    tunnel="http",
    deny=None,
    iss="outpass:1f2e",
    kid="k1",
)
REQUEST = EgressRequest(
    capability=Capability.HTTP.value,
    chain=PASS.chain,
    versions=PASS.versions,
    scheme="https",
    host=PASS.host,
    port=443,
    method="POST",
    path="/v1/charges",
    addresses=("192.0.2.7",),
)
DECISION = Decision(
    verdict=Verdict.ALLOW,
    reason=Reason.ALLOWED,
    request=REQUEST,
    principal="stripe",
    version="11.4.0",
    rule=RuleRef("outpass.yaml", 12, "https://api.stripe.com/v1/**"),
    miss=None,
    add=None,
    digest="9f2c0011aabbccdd",
)


def micros(call: Callable[[], object], number: int = 5_000) -> float:
    """Microseconds of one call, the least of seven runs."""
    return round(min(timeit.repeat(call, number=number, repeat=7)) / number * 1e6, 2)


def a_record(number: int) -> dict[str, Any]:
    return record.decision(
        DECISION,
        id=f"r-{number}",
        time_ms=1_763_770_000_000,
        jail=PASS.jail,
        source="gate",
        status=None,
        sid=PASS.sid,
        dialled="192.0.2.7:443",
        override=False,
        query="a=1&b=2",
        label="python app.py",
    )


def written(folder: Path) -> dict[str, float]:
    """Records a second from the first append to the last commit, and what append costs its caller meanwhile."""
    log = store.Store(folder / "audit.db", now=0.0)
    records = [a_record(n) for n in range(RECORDS)]
    start = time.perf_counter()
    waiting = 0.0
    for one in records:
        while not log.append(one):  # the queue is full: a real caller refuses here
            begin = time.perf_counter()
            log.flush()
            waiting += time.perf_counter() - begin
    appended = time.perf_counter() - start - waiting
    log.flush()
    total = time.perf_counter() - start
    assert log.close() == 0
    return {
        "append_us": round(appended / RECORDS * 1e6, 2),
        "written_per_s": round(RECORDS / total),
        "bytes_per_record": round((folder / "audit.db").stat().st_size / RECORDS),
    }


def run() -> dict[str, float]:
    """Microseconds a call, records a second, bytes a record."""
    text = token.mint(PASS, KEY)
    keys = {"k1": KEY}
    burned = ledger.Ledger(memoryview(bytearray(ledger.SIZE_BYTES)))
    serials = iter(range(1, 1 << 40))
    sample = a_record(0)
    figures: dict[str, float] = {
        "mint_us": micros(lambda: token.mint(PASS, KEY)),
        "verify_us": micros(lambda: token.verify(text, keys, now=1_763_770_001.5, jail="j-7d0e4c11")),
        "burn_us": micros(lambda: burned.burn(next(serials)), 50_000),
        "record_us": micros(lambda: a_record(1)),
        "record_json_us": micros(lambda: json.dumps(sample)),
        "pass_chars": len(text),
    }
    with tempfile.TemporaryDirectory() as folder:
        figures |= written(Path(folder))
    for name, value in figures.items():
        print(f"  {name:16} {value:10}")
    return figures


if __name__ == "__main__":
    run()
