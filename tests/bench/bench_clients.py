"""What the shim adds to one request of a real client (requests, httpx), CPU of the client process, A B A B in one run.

Lives here: real clients behind a real gate, with the shim (A) and without it (B: `python -I`, charged `unattributed`).
May not live here: timed assertions.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from tests.support.origin import Origin
from tests.support.runs import apps, outpass

ROUNDS = 5
SCRIPT = """
import json, time
CLIENT = {client!r}
if CLIENT == "requests":
    import requests; get = requests.Session().get
else:
    import httpx; get = httpx.Client().get
def many(n):
    start = time.process_time()
    for _ in range(n):
        assert get("https://up.example.com/x").status_code == 200
    return (time.process_time() - start) / n * 1e6
many(30)
print(json.dumps(many(300)))
"""
POLICY = """version: 1
include: [preset:http-clients]
packages:
  app: {allow: [network:http], http: ["https://up.example.com/**"]}
  unattributed: {allow: [network:http], http: ["https://up.example.com/**"]}
"""


def run() -> dict[str, float]:
    """Microseconds of client CPU per keep-alive HTTPS request, medians; and what the shim adds."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home, Origin(("up.example.com",)) as origin:
        where = Path(home)
        (where / "outpass.yaml").write_text(POLICY)
        options = [
            "run",
            "--policy",
            "outpass.yaml",
            "--no-jail",
            "-q",
            *origin.connect_to(),
            "--upstream-ca",
            str(origin.ca_file),
        ]
        for client in ("requests", "httpx"):
            (where / "main.py").write_text(SCRIPT.format(client=client))
            taken: dict[str, list[float]] = {"with": [], "without": []}
            for _ in range(ROUNDS):
                for name, flags in (("with", []), ("without", ["-I"])):
                    done = outpass(where, *options, "--", str(apps()), *flags, "main.py", cwd=where)
                    assert done.returncode == 0, done.stderr
                    taken[name].append(json.loads(done.stdout))
            with_shim, without = statistics.median(taken["with"]), statistics.median(taken["without"])
            figures |= {
                f"{client}_with_us": round(with_shim),
                f"{client}_without_us": round(without),
                f"{client}_added_us": round(with_shim - without),
                f"{client}_ratio": round(with_shim / without, 3),
            }
    for name, value in figures.items():
        print(f"  {name:24} {value:8}")
    return figures


if __name__ == "__main__":
    run()
