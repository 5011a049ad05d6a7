"""uvloop, the real one: who is charged where a loop without frames of its own runs callbacks, tasks and timers.

Lives here: every way to have a uvloop run something later, with a session and before there is one. May not live here: asyncio's own
loops (test_origin.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.shim.rig import World
from tests.support.apps import ROOT, application_venv

ALPHA = "from urllib.request import urlopen\ndef get(*_): return urlopen('http://alpha.example.com/').read()\nasync def aget(): return get()\n"
EVIL = """
import alpha, asyncio, os
async def start():
    loop = asyncio.get_running_loop()
    {step}
    await asyncio.sleep(0.3)
"""
FIRST = "import alpha; alpha.get()\n"
RUN = "import asyncio, sys; sys.path.append({site!r})\nimport evil, uvloop\nasync def main(): await evil.start()\n{run}\n"
RUNS = {
    "run_until_complete": "loop = uvloop.new_event_loop(); loop.run_until_complete(main())",
    "a Runner": "with asyncio.Runner(loop_factory=uvloop.new_event_loop) as r: r.run(main())",
    "the policy": "asyncio.set_event_loop_policy(uvloop.EventLoopPolicy()); asyncio.run(main())",
}


@pytest.fixture(scope="module")
def site() -> str:
    python = application_venv(ROOT / ".venv-uvloop", ROOT / "constraints" / "uvloop.txt")
    return str(next(Path(python).parent.parent.glob("lib/python3.*/site-packages")))


@pytest.mark.parametrize("first", ["", FIRST], ids=["before any request", "after a request"])
@pytest.mark.parametrize(
    "step",
    [
        "loop.call_soon(alpha.get)",
        "loop.call_soon_threadsafe(alpha.get)",
        "loop.call_later(0.01, alpha.get)",
        "loop.call_at(loop.time(), alpha.get)",
        "await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(alpha.aget(), loop))",
        "t = asyncio.create_task(alpha.aget())",
        "t = loop.create_task(asyncio.to_thread(alpha.get))",
        "await asyncio.gather(alpha.aget())",
        "await loop.run_in_executor(None, alpha.get)",
        "r, w = os.pipe(); os.write(w, b'x'); loop.add_reader(r, lambda f: (loop.remove_reader(r), f()), alpha.get)",
        "r, w = os.pipe(); loop.add_writer(w, lambda f: (loop.remove_writer(w), f()), alpha.get)",
        "import signal; loop.add_signal_handler(signal.SIGUSR1, alpha.get); os.kill(os.getpid(), signal.SIGUSR1)",
    ],
)
def test_whoever_has_the_loop_run_something_is_charged_too(world: World, site: str, step: str, first: str) -> None:
    world.package("alpha", ALPHA)
    world.package("evil", EVIL.format(step=step))
    world.run(first + RUN.format(site=site, run=RUNS["run_until_complete"]))
    chain = world.broker.chains()[-1]
    assert chain[0] in ("alpha", "evil") and {"alpha", "evil"} <= set(chain)
    assert chain[-1] == "app"


if sys.version_info < (3, 11):
    del RUNS["a Runner"]  # asyncio has it from 3.11 on


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_however_the_loop_is_run(world: World, site: str, run: str) -> None:
    world.package("alpha", ALPHA)
    world.package("evil", EVIL.format(step="loop.call_soon(alpha.get)"))
    world.run(RUN.format(site=site, run=run))
    assert world.broker.chains() == [["alpha", "evil", "app"]]


@pytest.mark.parametrize(
    ("sentence", "main", "chain"),
    [
        ("the application in a coroutine", "async def main(): urlopen('http://a.example.com/')", ["app"]),
        ("a package's coroutine as the main one", "import alpha\ndef main(): return alpha.aget()", ["alpha", "app"]),
        (
            "a package in the application's callback",
            "import alpha\nasync def main(): loop.call_soon(lambda: alpha.get())\n",
            ["alpha", "app"],
        ),
        (
            "a timer of asyncio's own",
            "import alpha\nasync def main():\n    await asyncio.wait_for(asyncio.sleep(0.01), 5); alpha.get()",
            ["alpha", "app"],
        ),
    ],
)
def test_honest_programs(world: World, site: str, sentence: str, main: str, chain: list[str]) -> None:
    world.package("alpha", ALPHA)
    source = f"import asyncio, sys; sys.path.append({site!r})\nimport uvloop\nfrom urllib.request import urlopen\n{main}\n"
    world.run(
        source + "loop = uvloop.new_event_loop(); loop.run_until_complete(main()); loop.run_until_complete(asyncio.sleep(0.05))"
    )
    assert world.broker.chains() == [chain], sentence
