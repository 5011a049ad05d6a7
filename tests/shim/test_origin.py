"""Who started this: the chain of code that runs in another thread, task, callback or at exit than the one that asked for it.

Lives here: one program per way of starting something, before and after the process has a session. May not live here: the walk
over one stack (test_chain.py).
"""

from __future__ import annotations

import sys

import pytest

from tests.shim.rig import World

ALPHA = """
from urllib.request import urlopen
def get():
    return urlopen("http://alpha.example.com/").read()
async def aget():
    return get()
"""
EVIL = (
    "def run(function, *args):\n    return function(*args)\nasync def arun(function, *args):\n    return await function(*args)\n"
)

WAYS = {
    "a thread": "import threading; t = evil.run(lambda: threading.Thread(target=alpha.get)); evil.run(t.start); t.join()",
    "a timer": "import threading; t = threading.Timer(0, alpha.get); evil.run(t.start); t.join()",
    "a pool of threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as pool:
    pool.submit(int).result()
    evil.run(pool.submit, alpha.get).result()""",
    "asyncio.run": "import asyncio; evil.run(asyncio.run, alpha.aget())",
    "an awaited coroutine": "import asyncio; asyncio.run(evil.arun(alpha.aget))",
    "a task": """
import asyncio
async def main():
    t = evil.run(asyncio.ensure_future, alpha.aget())
    await asyncio.sleep(0)
    await t
asyncio.run(main())""",
    "gather": """
import asyncio
async def main():
    await evil.run(asyncio.gather, alpha.aget())
asyncio.run(main())""",
    "call_soon": """
import asyncio
async def main():
    evil.run(asyncio.get_running_loop().call_soon, alpha.get)
    await asyncio.sleep(0.01)
asyncio.run(main())""",
    "call_later": """
import asyncio
async def main():
    evil.run(asyncio.get_running_loop().call_later, 0.001, alpha.get)
    await asyncio.sleep(0.2)
asyncio.run(main())""",
    "call_soon_threadsafe from a thread": """
import asyncio, threading
async def main():
    loop = asyncio.get_running_loop()
    t = threading.Thread(target=lambda: evil.run(loop.call_soon_threadsafe, alpha.get)); t.start()
    await asyncio.sleep(0.2)
    t.join()
asyncio.run(main())""",
    "run_coroutine_threadsafe": """
import asyncio, threading
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
evil.run(asyncio.run_coroutine_threadsafe, alpha.aget(), loop).result()""",
    "run_coroutine_threadsafe from somebody else's thread": """
import asyncio, threading
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
def work(): evil.run(asyncio.run_coroutine_threadsafe, alpha.aget(), loop).result()
t = threading.Thread(target=work); t.start(); t.join()""",
    "add_reader": """
import asyncio, socket
async def main():
    a, b = socket.socketpair()
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    evil.run(loop.add_reader, a, alpha.then, lambda: (loop.remove_reader(a), done.set_result(None)))
    b.send(b"x")
    await done
asyncio.run(main())""",
    "run_in_executor": """
import asyncio
async def main():
    await evil.run(asyncio.get_running_loop().run_in_executor, None, alpha.get)
asyncio.run(main())""",
    "to_thread": """
import asyncio
async def main():
    await evil.arun(asyncio.to_thread, alpha.get)
asyncio.run(main())""",
    "at exit": "import atexit; evil.run(atexit.register, alpha.get)",
}
if sys.version_info >= (3, 11):
    WAYS["a task group"] = """
import asyncio
async def main():
    async with asyncio.TaskGroup() as group:
        evil.run(group.create_task, alpha.aget())
asyncio.run(main())"""
    WAYS["a task in a context of its own"] = """
import asyncio, contextvars, functools
async def main():
    loop = asyncio.get_running_loop()
    await evil.run(functools.partial(loop.create_task, context=contextvars.Context()), alpha.aget())
asyncio.run(main())"""


def packages(world: World) -> None:
    world.package("alpha", ALPHA + "def then(after):\n    get(); after()\n")
    world.package("evil", EVIL)


@pytest.mark.parametrize("session", [False, True], ids=["before the session", "within the session"])
@pytest.mark.parametrize("way", WAYS)
def test_whoever_started_it_is_in_the_chain(world: World, way: str, session: bool) -> None:
    packages(world)
    first = "from urllib.request import urlopen; urlopen('http://first.example.com/').read()\n" if session else ""
    world.run("import alpha, evil\n" + first + WAYS[way])
    assert world.broker.chains()[-1] == ["alpha", "evil", "app"]


def test_a_raw_thread_has_no_origin_and_is_unknown(world: World) -> None:
    packages(world)
    world.run(
        """
        import _thread, alpha, evil
        lock = _thread.allocate_lock(); lock.acquire()
        evil.run(_thread.start_new_thread, alpha.then, (lock.release,))
        lock.acquire()
        """
    )
    assert world.broker.chains() == [["alpha", "?"]]


def test_the_owner_of_the_loop_is_not_charged_for_what_others_put_on_it(world: World) -> None:
    packages(world)
    world.package("server", "import asyncio\ndef serve(main):\n    asyncio.run(main())\n")
    world.run(
        """
        import alpha, asyncio, server
        async def main():
            asyncio.get_running_loop().call_soon(alpha.get)
            await asyncio.sleep(0.01)
        server.serve(main)
        """
    )
    assert world.broker.chains() == [["alpha", "app"]]


def test_a_handle_that_is_run_by_hand_hides_nobody(world: World) -> None:
    packages(world)
    world.run(
        """
        import alpha, asyncio, evil
        loop = asyncio.new_event_loop()
        handle = asyncio.Handle(alpha.get, (), loop)
        evil.run(handle._run)
        """
    )
    assert world.broker.chains() == [["alpha", "evil", "app"]]


def test_a_thread_s_run_called_by_hand_hides_nobody(world: World) -> None:
    packages(world)
    world.run("import alpha, evil, threading\nt = threading.Thread(target=alpha.get)\nevil.run(t.run)")
    assert world.broker.chains() == [["alpha", "evil", "app"]]


def test_an_instrument_that_wraps_threads_is_not_charged_for_what_runs_in_them(world: World) -> None:
    packages(world)
    world.package(
        "spy",
        """
        import threading
        def install():
            old = threading.Thread.start
            def spying(self):
                run = self.run
                def wrapped():
                    return run()
                self.run = wrapped
                return old(self)
            threading.Thread.start = spying
        def export():
            from urllib.request import urlopen
            urlopen("http://spy.example.com/").read()
        """,
    )
    world.broker.reply["instruments"] = ["spy"]
    source = """
    import alpha, spy, threading
    spy.install()
    for f in (alpha.get, alpha.get, spy.export):
        t = threading.Thread(target=f); t.start(); t.join()
    """
    world.run(source)
    assert world.broker.chains() == [["alpha", "app"], ["alpha", "app"], ["spy", "app"]]


def test_unregistering_an_exit_handler_still_works(world: World) -> None:
    packages(world)
    world.run("import alpha, atexit\nassert atexit.register(alpha.get) is alpha.get\natexit.unregister(alpha.get)")
    assert world.broker.got == []


def test_a_program_s_own_context_variables_and_results_are_untouched(world: World) -> None:
    done = world.run(
        """
        import asyncio, contextvars
        v = contextvars.ContextVar("v", default=0)
        async def child():
            v.set(2); return v.get()
        async def main():
            v.set(1)
            assert await asyncio.create_task(child()) == 2 and v.get() == 1
            assert await asyncio.to_thread(v.get) == 1
            c = contextvars.copy_context(); c.run(v.set, 9); assert v.get() == 1
            f = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: f.set_result(v.get())); assert await f == 1
        asyncio.run(main())
        """
    )
    assert done.stderr == ""
    assert world.broker.got == []


def test_what_schedules_itself_for_ever_does_not_grow(world: World) -> None:
    packages(world)
    done = world.run(
        """
        import alpha, asyncio, evil
        from outpass_shim import _chain
        sizes = []
        async def main():
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            def again(n):
                sizes.append(len(_chain.origin.get()))
                loop.call_soon(again, n - 1) if n else done.set()
            evil.run(loop.call_soon, again, 50)
            await done.wait()
        asyncio.run(main())
        print(len(set(sizes[5:])))
        """
    )
    assert done.stdout == "1\n"
    assert world.broker.got == []
