"""One run of many rows of support/stacks.py: an application and the package `evil`, each asking over the same sessions.

Lives here: the project that is written, the origins, what came of it. May not live here: assertions, rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from tests.support.grpc_origin import GrpcOrigin
from tests.support.origin import Origin
from tests.support.packages import installed
from tests.support.runs import Run, run_script, stacks
from tests.support.stacks import HTTP, NOTED, PLAIN, RAW, RPC, WS, Stack
from tests.support.websocket_origin import WebSocketOrigin

POLICY = f"""
version: 1
include: [preset:http-clients]
packages:
  app:
    allow: [network:http, network:socket]
    http: ["https://{HTTP}/**", "https://{WS}/**", "https://{RPC}/**", "http://{PLAIN}/**"]
    socket: ["{RAW}:443"]
  evil: {{allow: [network:http], http: ["https://elsewhere.example.com/**"]}}
"""
DRIVER = """
import importlib, inspect, json, traceback
def guarded(ask):
    def call(*args):
        try: return ask(*args)
        except Exception as e: return told(e)
    async def wait(*args):
        try: return await ask(*args)
        except Exception as e: return told(e)
    return wait if inspect.iscoroutinefunction(ask) else call
def told(e):
    causes = []
    while e is not None: causes.append(str(e)); e = e.__cause__ or e.__context__
    return " / ".join(causes)
def row(number):
    try: return importlib.import_module(f"main{number}").got
    except BaseException: return traceback.format_exc()
"""
ROW = """
from main import guarded
from row{number} import ask as mine
from evil.row{number} import ask as theirs
theirs = guarded(theirs)
def url(who): return "{scheme}://{host}/{number}/" + who
{main}
"""


@dataclass
class Ran:
    run: Run
    answers: dict[str, Any] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    """paths that arrived; of gRPC the messages, which are paths"""
    headers: set[str] = field(default_factory=set)


def run_rows(home: Path, rows: list[Stack], *, jail: bool = True, base: Path | None = None, prelude: str = "") -> Ran:
    """Runs the rows in one program, with the packages that `base` (an interpreter) has; `prelude` is its first line."""
    python = installed(home, "", base or stacks())
    evil = next((home / "venv" / "lib").glob("python3.*/site-packages")) / "evil"
    project = home / "project"
    project.mkdir()
    (project / "noted.py").write_text(NOTED)
    for number, stack in enumerate(rows):
        (evil / f"row{number}.py").write_text(stack.ask)
        (project / f"row{number}.py").write_text(stack.ask)
        scheme = {WS: "wss", PLAIN: "http"}.get(stack.host, "https")
        source = ROW.format(number=number, scheme=scheme, host=stack.host, main=stack.main)
        (project / f"main{number}.py").write_text(source)
    main = (
        f"{prelude}\n{DRIVER}if __name__ == '__main__':\n    for n in range({len(rows)}): print(json.dumps(row(n)), flush=True)\n"
    )
    ca = trustme.CA()
    plainly = Origin((PLAIN,), tls=False)
    with Origin((HTTP, RAW), ca=ca) as web, plainly as plain, WebSocketOrigin(WS, ca) as sockets, GrpcOrigin(ca, RPC) as rpc:
        to = [*web.connect_to(), *plain.connect_to(), *sockets.connect_to(), "--connect-to", f"{RPC}:443:127.0.0.1:{rpc.port}"]
        run = run_script(home, main, *to, "--upstream-ca", str(web.ca_file), policy=POLICY, python=python, jail=jail)
        ran = Ran(run)
        lines = [line for line in run.out.splitlines() if line]
        ran.answers = {stack.name: json.loads(line) for stack, line in zip(rows, lines, strict=False)}
        ran.seen = [s.path for s in (*web.seen, *plain.seen)] + [path for path, _ in sockets.seen]
        ran.seen += [message for _, message in rpc.asked]
        ran.headers = {name for s in (*web.seen, *plain.seen) for name, _ in s.headers} | {
            n for _, names in sockets.seen for n in names
        }
        ran.headers |= {name for _, metadata in rpc.seen for name in metadata}
    return ran
