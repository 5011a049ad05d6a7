"""The golden messages: what the shim really sends is what they say, and what it does with each answer.

Lives here: client_shim/vectors/messages.json, played against real programs. May not live here: chains (test_chain.py).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.shim.rig import VECTORS, World

GOLDEN: dict[str, Any] = json.loads((VECTORS / "messages.json").read_text())
FIELDS_OF_THE_RIG = ("_pid", "_bytes")

ALPHA = """
import http.client, os, re, socket, subprocess, urllib.request
def do(what):
    if what.startswith("GET http"):
        urllib.request.urlopen(what[4:]).read()
    elif what.startswith("GET "):
        host, port = os.environ["OUTPASS_PROXY"].split(":")
        c = http.client.HTTPConnection(host, int(port)); c.set_tunnel(what.split(" ")[1]); c.request("GET", "/x"); c.getresponse().read()
    elif what == "spawn":
        print(subprocess.run(["/bin/sh", "-c", "echo $OUTPASS_SPAWN"], stdout=subprocess.PIPE, text=True).stdout, end="")
    elif what.startswith("connect "):
        host, port = re.fullmatch(r"connect (.*):(\\d+)", what).groups()
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET); s.setblocking(False); s.connect((host.strip("[]"), int(port)))
    elif what.startswith("resolve "):
        socket.getaddrinfo(what.split(" ")[1], None)
"""


def without_the_rig(message: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in message.items() if k not in FIELDS_OF_THE_RIG}


def play(world: World, what: str, replies: list[dict[str, Any]]) -> str:
    """Runs alpha.do(what); the broker answers everything but hello from `replies`. Prints what came of it."""
    world.package("alpha", ALPHA)
    waiting = list(replies)
    world.broker.answers = lambda m: None if m["op"] == "hello" else waiting.pop(0)
    source = f"import alpha\ntry: alpha.do({what!r})\nexcept PermissionError as e: print(e.reason)\nexcept OSError: pass"
    return world.run(source).stdout.strip()


@pytest.mark.parametrize("case", GOLDEN["mint"], ids=[c["case"] for c in GOLDEN["mint"]])
def test_mint(world: World, case: dict[str, Any]) -> None:
    out = play(world, case["do"], case["replies"])
    asked = world.broker.of("mint")
    assert [without_the_rig(m) for m in asked] == case["requests"]
    assert [m["_bytes"] for m in asked] == [json.dumps(r, separators=(",", ":")).encode() for r in case["requests"]]
    shown = ("proxy-authorization", "outpass-token")
    wanted = [{k.lower(): [v] for k, v in h.items()} for h in case.get("headers", [])]
    assert [{k: v for k, v in h.items() if k in shown} for h in world.proxy.heads] == wanted
    assert out == case.get("environment", {}).get("OUTPASS_SPAWN", "")


@pytest.mark.parametrize("case", GOLDEN["check"], ids=[c["case"] for c in GOLDEN["check"]])
def test_check(world: World, case: dict[str, Any]) -> None:
    out = play(world, case["do"], [case["reply"]])
    assert [without_the_rig(m) for m in world.broker.of("check")] == [case["request"]]
    assert out == ("" if case["effect"] == "allowed" else case["effect"])


@pytest.mark.parametrize("case", GOLDEN["hello"]["replies"], ids=[c["case"] for c in GOLDEN["hello"]["replies"]])
def test_hello(world: World, case: dict[str, Any]) -> None:
    world.package("alpha", ALPHA)
    world.write_map()
    real = {"<root>": [str(world.app)], "<map>": world.broker.reply["map"]}
    reply = {k: real["<root>"] if k == "roots" else real.get(v, v) if isinstance(v, str) else v for k, v in case["reply"].items()}
    world.broker.answers = lambda m: reply if m["op"] == "hello" else {"pass": "p", "tunnel": "http"}
    world.run("import alpha; alpha.do('GET http://api.example.com/x')")
    (hello,) = (without_the_rig(m) for m in world.broker.of("hello"))
    golden = GOLDEN["hello"]["request"]
    assert list(hello) == list(golden)
    assert {k: v for k, v in hello.items() if not str(golden[k]).startswith("<")} == {
        k: v for k, v in golden.items() if not str(v).startswith("<")
    }
    assert ("proxy-authorization" in world.proxy.heads[0]) is (case["effect"] == "session")
