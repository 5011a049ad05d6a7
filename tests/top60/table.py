"""The document: the rows' results in words.

Lives here: docs/top60.md's text; pure. May not live here: running, files, clocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tests.top60.running import GOOD, Result
from tests.top60.smoke import Smoke

HEAD: Final = """# The most downloaded packages that use the network

Written by `make top60` on {date}, never by hand: {good} of {count} rows are good, on Python {python}, with the newest wheels of the index that go
together in one of three virtualenvs (aiobotocore keeps boto3 back). Each row is a program in a jail, under one daemon and one policy, in which
a package is granted one host of its own on a local server and nothing else. It is imported and makes one call. **ok** means that the call returned
what the server said, that it arrived there, that every request to that host was charged as the table says, and that the same call to another host
was refused in the same name, and did not arrive.

The servers are fakes that know as much of an API as the call needs, over TLS where the package speaks HTTP or gRPC. PostgreSQL, MariaDB, Redis,
RabbitMQ, NATS and Mosquitto are real, on loopback. There was no Kafka and no MongoDB: of Kafka the first bytes arrive at a listener and the
client gives up; a small fake answers MongoDB's handshake and ping.

**Rank** is the place in a list of the 15 000 most downloaded of PyPI, of November 2026, that was at hand when the rows were written; nothing looks it
up again. Of the ranks up to 330 these and their like are not here, though they can use the network:

- servers (uvicorn, starlette, fastapi, werkzeug, flask, gunicorn, sse-starlette), and what only listens or talks on loopback (ipykernel,
  jupyter-client, py4j, debugpy) or to D-Bus (keyring, secretstorage, jeepney);
- what lies below other rows or does no I/O of its own (h11, h2, httptools, uvloop, aiohappyeyeballs, OpenTelemetry's API and SDK);
- what asks through a row that is here: langchain and langchain-core (openai, anthropic), transformers and datasets (huggingface-hub), email-validator
  (dnspython), pre-commit (git), dbt, llama-cloud-services (httpx), and the Google clients made like secret-manager, pubsub and aiplatform; hf-xet, the native core
  of huggingface-hub's downloads, was not tried;
- programs (uv is `exe:uv` in `preset:python-packaging`; playwright drives a browser; nodeenv downloads one), and what was too large or not to be had
  (torch, sglang, litellm).

**Charged to:** *itself*; *its caller*, where the package is `transparent` by `preset:http-clients` or `preset:sdk-cores` (the chain then begins with whoever
called it, here `app`); another package that sends for it, the family, whose rule names it in `via:`; or `unattributed`, where native code
asks by itself ([policies/README.md](../policies/README.md), "Native code in a jail" and "Families").
"""


def written(results: Sequence[Result], versions: Mapping[str, str], python: str, date: str) -> str:
    """The document."""
    good = sum(result.verdict == GOOD for result in results)
    lines = [HEAD.format(date=date, good=good, count=len(results), python=python)]
    lines += ["| rank | package | version | call | charged to | result |", "|---" * 6 + "|"]
    notes: list[str] = []
    for result in sorted(results, key=lambda result: result.row.rank):
        row = result.row
        cells = [str(row.rank), row.package, versions.get(row.package, ""), row.does, charged_to(row), _verdict(result, notes)]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines).rstrip() + "\n"


def charged_to(row: Smoke) -> str:
    """The principal, and the family where the rule needs one."""
    shown = {"app": "its caller", row.package: "itself"}.get(row.charged, f"`{row.charged}`")
    if row.also:
        shown += f", and `{'`, `'.join(row.also)}`"
    return shown + (f", via `{'`, `'.join(row.family)}`" if row.family else "")


def _verdict(result: Result, notes: list[str]) -> str:
    if result.verdict == GOOD:
        return GOOD
    note = result.row.note or " ".join(result.verdict.split())[:200]
    if note not in notes:
        notes.append(note)
    return f"no ({notes.index(note) + 1})"
