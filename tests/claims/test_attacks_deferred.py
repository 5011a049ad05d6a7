"""Claims: work that runs later, elsewhere, or under a name that was taken; and what of it in-process code *can* get.

Three hosts: `alpha` is granted to the package alpha, `app` to the application, `evil` to nobody. Rows without `gets` are refused:
nothing arrives anywhere, and a decision says so (so that no row passes because its attack never ran). Rows with `gets` are KNOWN
(SECURITY.md): they reach what that principal was granted and never more. If one changes, update both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.warm import Warm, warm

POLICY = """version: 1
include: [preset:http-clients]
packages:
  app: {allow: [network:http], http: ["https://app.example.com/"]}
  alpha: {allow: [network:http], http: ["https://alpha.example.com/api"]}
"""
ALPHA = "https://alpha.example.com/api"
APP = "https://app.example.com/"
GO = "import alpha, evil\nevil.go()\n"
GUARDED = "import alpha, evil\nif __name__ == '__main__':\n    evil.go()\n"
CODE = f"import requests; requests.get({APP!r})"
ALPHA_CODE = CODE.replace(APP, ALPHA)
FUNCTION = f"import requests\ndef f(): requests.get({APP!r})"
ALPHA_FUNCTION = FUNCTION.replace(APP, ALPHA)


class Attack(NamedTuple):
    sentence: str
    evil: str
    main: str = GO
    gets: str = ""
    """whose host is reached: a known way round"""


def loop(step: str) -> str:
    """An evil package whose own event loop does `step`."""
    return (
        "import alpha, asyncio, contextvars, functools, os, requests, signal\nasync def main():\n"
        f"    loop = asyncio.get_running_loop()\n    {step}\n    await asyncio.sleep(0.6)\ndef go(): asyncio.run(main())\n"
    )


def child(method: str, target: str) -> str:
    return (
        f"import alpha, requests, multiprocessing as m\ndef go():\n    p = m.get_context({method!r}).Process(target={target})\n"
        "    p.start(); p.join()\n"
    )


LATER = [
    Attack("call_later", loop("loop.call_later(0.01, alpha.fetch)")),
    Attack("call_later of the library itself", loop(f"loop.call_later(0.01, requests.get, {APP!r})")),
    Attack("call_at", loop(f"loop.call_at(loop.time(), requests.get, {APP!r})")),
    Attack("call_soon_threadsafe", loop(f"loop.call_soon_threadsafe(requests.get, {APP!r})")),
    Attack("call_soon in an empty context", loop(f"loop.call_soon(requests.get, {APP!r}, context=contextvars.Context())")),
    Attack(
        "add_reader",
        loop("r, w = os.pipe(); os.write(w, b'x'); loop.add_reader(r, alpha.fetch); loop.call_later(0.2, loop.remove_reader, r)"),
    ),
    Attack(
        "add_signal_handler", loop("loop.add_signal_handler(signal.SIGUSR1, alpha.fetch); os.kill(os.getpid(), signal.SIGUSR1)")
    ),
    Attack("run_in_executor", loop(f"await loop.run_in_executor(None, requests.get, {APP!r})")),
    Attack(
        "a future's callback",
        loop(f"f = loop.create_future(); f.add_done_callback(lambda f: requests.get({APP!r})); f.set_result(0)"),
    ),
    Attack("a timer", "import alpha, threading\ndef go(): t = threading.Timer(0.01, alpha.fetch); t.start(); t.join()"),
    Attack(
        "a timer of the library itself",
        f"import requests, threading\ndef go(): t = threading.Timer(0.01, requests.get, [{APP!r}]); t.start(); t.join()",
    ),
    Attack("atexit", "import alpha, atexit\ndef go(): atexit.register(alpha.fetch)"),
    Attack("atexit of the library itself", f"import requests, atexit\ndef go(): atexit.register(requests.get, {APP!r})"),
    Attack(
        "weakref.finalize at exit",
        f"import requests, weakref\nclass O: pass\no = O()\ndef go(): weakref.finalize(o, requests.get, {APP!r})",
    ),
    Attack(
        "its own __del__",
        f"import requests\nclass O:\n    def __del__(self): requests.get({APP!r})\ndef go(): return O()",
        "import evil\no = evil.go()\ndel o\n",
    ),
    Attack(
        "its own signal handler",
        f"import requests, signal\ndef h(*a): requests.get({APP!r})\ndef go(): signal.signal(signal.SIGUSR1, h)",
        "import evil, os, signal\nevil.go()\nos.kill(os.getpid(), signal.SIGUSR1)\n",
    ),
    Attack(
        "excepthook",
        f"import requests, sys\ndef h(*a): requests.get({APP!r})\ndef go(): sys.excepthook = h",
        "import evil\nevil.go()\n1/0\n",
    ),
    Attack(
        "a trace function",
        f"import requests, sys\ndone = []\ndef t(f, e, a):\n    if not done and f.f_code.co_name == 'call':\n        done.append(1); requests.get({APP!r})\n"
        "def go(): sys.settrace(t)",
        "import evil, alpha\nevil.go()\nalpha.call(len, 'x')\n",
    ),
    Attack(
        "a callback of the garbage collector",
        f"import gc, requests\ndone = []\ndef c(p, i):\n    if not done: done.append(1); requests.get({APP!r})\ndef go(): gc.callbacks.append(c)",
        "import evil, gc\nevil.go()\ngc.collect()\n",
    ),
    Attack(
        "a generator's finaliser",
        f"import requests\ndef g():\n    try: yield\n    finally: requests.get({APP!r})\ndef go():\n    x = g(); next(x); return x",
        "import evil\nx = evil.go()\ndel x\n",
    ),
    Attack(
        "a context copied by hand",
        f"import contextvars, requests\ndef go(): contextvars.copy_context().run(requests.get, {APP!r})",
    ),
    Attack(
        "a context that the application runs in a thread",
        "import contextvars\ndef go(): return contextvars.copy_context()",
        f"import evil, requests, threading\nt = threading.Thread(target=evil.go().run, args=(requests.get, {APP!r})); t.start(); t.join()\n",
    ),
    Attack(
        "the application's executor",
        f"import requests\ndef go(p): p.submit(requests.get, {APP!r}).result()",
        "import evil\nfrom concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(1) as p: p.submit(len, '').result(); evil.go(p)\n",
    ),
    Attack(
        "a coroutine for the application's loop, from the application's thread",
        "import asyncio, requests\ndef go(loop):\n"
        f"    asyncio.run_coroutine_threadsafe(asyncio.to_thread(requests.get, {APP!r}), loop).result()",
        "import asyncio, evil, subprocess, threading\nsubprocess.run(['true'])\nloop = asyncio.new_event_loop()\n"
        "threading.Thread(target=loop.run_forever, daemon=True).start()\n"
        "t = threading.Thread(target=lambda: evil.go(loop)); t.start(); t.join()\n",
    ),
    *(
        Attack(f"a process by {method} that runs {what}", child(method, target), GUARDED)
        for method in ("fork", "spawn", "forkserver")
        for what, target in (("the victim's function", "alpha.fetch"), ("the library", f"requests.get, args=({APP!r},)"))
    ),
    Attack("a child of its own", f"import subprocess, sys\ndef go(): subprocess.run([sys.executable, '-c', {CODE!r}])"),
    Attack(
        "a child whose program it is", "import subprocess, sys\ndef go(): subprocess.run([sys.executable, '-m', 'evil.tool'])"
    ),
    Attack("becoming another program", f"import os, sys\ndef go(): os.execv(sys.executable, [sys.executable, '-c', {CODE!r}])"),
]

NAMES = [
    Attack(
        "a function that says that it is the victim's",
        f"import alpha, functools, requests\n@functools.wraps(alpha.fetch)\ndef go(): requests.get({ALPHA!r})\n",
    ),
    Attack(
        "a frame whose globals say that they are the application's",
        f"def go(): exec({CODE!r}, {{'__name__': '__main__', '__file__': 'main.py'}})",
    ),
    Attack(
        "its own module run again by a loader for the application's file",
        f"import importlib.machinery as m, requests, sys\ndef steal(): requests.get({APP!r})\ndef go():\n    import helper\n"
        "    m.SourceFileLoader('evil', helper.__file__).exec_module(sys.modules['evil'])\n    steal()\n",
    ),
    Attack(
        "runpy, given code that claims the application's file",
        f"import runpy\ndef go():\n    import helper\n    runpy._run_code(compile({CODE!r}, helper.__file__, 'exec'), {{}})\n",
    ),
    Attack(
        "a module put into sys.modules under the application's name",
        f"import sys, types\ndef go():\n    sys.modules['helper'] = m = types.ModuleType('helper'); exec({CODE!r}, m.__dict__)\n",
    ),
    Attack(
        "a file in the project, its time set back",
        f"import os\ndef go():\n    open('plugin.py', 'w').write({CODE!r}); os.utime('plugin.py', (1e9, 1e9))",
        "import evil\nevil.go()\nimport plugin\n",
    ),
    Attack(
        "a file in the victim's directory",
        f"import alpha, os\ndef go(): open(os.path.join(os.path.dirname(alpha.__file__), 'fresh.py'), 'w').write({CODE!r})",
        "import evil\nevil.go()\nimport alpha.fresh\n",
    ),
    Attack(
        "its own file, by a path that begins in the project",
        "import os, sys\ndef go(): sys.path.insert(0, os.path.join(os.getcwd(), os.path.relpath(os.path.dirname(__file__))))",
        "import evil\nevil.go()\nimport tool\n",
    ),
    Attack(
        "its own file, by a link in the project",
        "import os, sys\ndef go(): os.symlink(os.path.dirname(__file__), 'plug'); sys.path.insert(0, os.path.abspath('plug'))",
        "import evil, os\nevil.go()\ntry: import tool\nfinally: os.unlink('plug')\n",
    ),
    Attack(
        "a zip archive that the application imports from",
        f"import sys, zipfile\ndef go():\n    with zipfile.ZipFile('z.zip', 'w') as z: z.writestr('zipped.py', {CODE!r})\n    sys.path.insert(0, 'z.zip')",
        "import evil\nevil.go()\nimport zipped\n",
    ),
    Attack(
        "a callback made by exec",
        f"def go(): exec({FUNCTION!r}, d := {{}}); return d['f']",
        "import evil\nevil.go()()\n",
    ),
    Attack(
        "libraries loaded again",
        f"import importlib, http.client, contextvars, threading, requests, concurrent.futures.thread as t\ndef go():\n    for m in (http.client, contextvars, t): importlib.reload(m)\n    t.ThreadPoolExecutor().submit(requests.get, {APP!r}).result()",
    ),
    Attack(
        "libraries loaded again without the shim's finder",
        "import sys\ndef go():\n    sys.meta_path[:] = [f for f in sys.meta_path if 'outpass' not in getattr(f, '__module__', '')]\n"
        "    for m in list(sys.modules):\n        if m.split('.')[0] in ('socket', 'ssl', 'http', 'urllib3', 'requests'): del sys.modules[m]\n"
        f"    import requests\n    requests.get({APP!r})",
    ),
]

KNOWN = [
    Attack("a weak reference's callback is the victim's function", "import alpha, weakref\nclass O: pass\ndef go(): o = O(); weakref.finalize(o, alpha.fetch); return o", "import evil\no = evil.go()\ndel o\n", "alpha"),
    Attack("a __del__ that is the victim's function", "import alpha\nclass O: url = alpha.URL\nO.__del__ = alpha.Client.get\ndef go(): return O()", "import evil\no = evil.go()\ndel o\n", "alpha"),
    Attack("a callback made by exec that the victim calls", f"import alpha\ndef go(): exec({ALPHA_FUNCTION!r}, d := {{}}); return d['f']", "import evil, alpha\nalpha.call(evil.go())\n", "alpha"),
    Attack("a file in the victim's directory, its time set back", f"import alpha, os\ndef go():\n    p = os.path.join(os.path.dirname(alpha.__file__), 'dated.py')\n    open(p, 'w').write({ALPHA_CODE!r}); os.utime(p, (1e9, 1e9))", "import evil\nevil.go()\nimport alpha.dated\n", "alpha"),
    Attack("a compiled file beside a module of the victim's that is not loaded yet", "import alpha, importlib.util as u, os, importlib._bootstrap_external as b\ndef go():\n    p = os.path.join(os.path.dirname(alpha.__file__), 'lazy.py'); c = u.cache_from_source(p)\n    os.makedirs(os.path.dirname(c), exist_ok=True)\n" f"    code = compile({ALPHA_CODE!r}, p, 'exec')\n    open(c, 'wb').write(b._code_to_hash_pyc(code, u.source_hash(b''), False))", "import evil\nevil.go()\nimport alpha.lazy\n", "alpha"),
    Attack("a lazy result of the library", f"import requests\ndef go(): return map(requests.get, [{APP!r}])", "import evil\nnext(evil.go())\n", "app"),
    Attack("a pickle that the application loads", f"import pickle, requests\nclass R:\n    def __reduce__(self): return requests.get, ({APP!r},)\ndef go(): return pickle.dumps(R())", "import evil, pickle\npickle.loads(evil.go())\n", "app"),
    Attack("a thread that the application starts", f"import requests, threading\ndef go(): return threading.Thread(target=requests.get, args=[{APP!r}])", "import evil\nt = evil.go(); t.start(); t.join()\n", "app"),
    Attack("the application's ThreadPool", f"import requests\ndef go(p): p.apply(requests.get, ({APP!r},))", "import evil\nfrom multiprocessing.pool import ThreadPool\nwith ThreadPool(1) as p: evil.go(p)\n", "app"),
    Attack("the application's process pool", f"import requests\ndef go(p): p.submit(requests.get, {APP!r}).exception()", "import evil\nfrom concurrent.futures import ProcessPoolExecutor\nif __name__ == '__main__':\n    with ProcessPoolExecutor(1) as p: p.submit(len, '').result(); evil.go(p)\n", "app"),
    Attack("the application's worker, by its queue", f"import requests\ndef go(q): q.put((requests.get, {APP!r}))", "import evil, queue, threading\nq = queue.Queue()\ndef work():\n    f, x = q.get(); f(x)\nt = threading.Thread(target=work); t.start(); evil.go(q); t.join()\n", "app"),
    Attack("call_soon in a context that is the application's", f"import asyncio, requests\ndef go(context): asyncio.get_running_loop().call_soon(requests.get, {APP!r}, context=context)", "import asyncio, contextvars, evil\nasync def main(): evil.go(contextvars.copy_context()); await asyncio.sleep(0.6)\nasyncio.run(main())\n", "app"),
    Attack("exec in the application's own module", f"import sys\ndef go(): exec({CODE!r}, sys.modules['__main__'].__dict__)", gets="app"),
    Attack("a trace function that changes the application's variables", f"import sys\ndef t(f, e, a):\n    if f.f_code.co_name == 'mine': f.f_locals['url'] = {APP + '?stolen'!r}\n    return t\ndef go(): sys.settrace(t)", f"import evil, requests\ndef mine(url): requests.get(url)\nevil.go()\nmine({APP!r})\n", "app"),
    Attack("editing the shim's registry", f"import requests, sys\ndef steal(): requests.get({APP!r})\ndef go():\n    requests.get({APP!r}); r = sys.modules['outpass_shim._registry']; r.names[r.key(globals())] = 'app'; steal()", gets="app"),
]  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm(tmp_path_factory.mktemp("warm"), ("alpha.example.com", "app.example.com", "evil.example.org")) as running:
        yield running


@pytest.mark.parametrize("case", [*LATER, *NAMES, *KNOWN], ids=lambda a: a.sentence)
def test_what_runs_later_or_under_another_name_gets_at_most_what_was_granted(case: Attack, programs: Warm) -> None:
    programs.run(POLICY, "")
    site = programs.site()
    (site / "alpha" / "lazy.py").write_text("")
    (site / "evil" / "tool.py").write_text(CODE)
    for late in ("fresh.py", "dated.py", "__pycache__/lazy.cpython-313.pyc", "__pycache__/lazy.cpython-312.pyc"):
        (site / "alpha" / late).unlink(missing_ok=True)
    done = programs.run(POLICY, case.main, case.evil, files={"helper.py": "X = 1\n"})
    assert done.seen == [case.gets] * bool(case.gets), done.said()
    if not case.gets:
        assert done.summary["denied"] >= 1, f"the attack never asked\n{done.said()}"
    assert "outpass: error: internal" not in done.err


def test_distributions_that_claim_each_other_s_files_get_nothing_by_it(programs: Warm) -> None:
    """One that adds to a package's directory is charged itself; one that lists a file of another's makes it nobody's."""
    programs.run(POLICY, "")
    site = programs.site()
    (site / "alpha" / "plug.py").write_text(f"import requests\ndef get(): return requests.get({ALPHA!r})\n")
    record = site / "evil-6.6.6.dist-info" / "RECORD"
    python = str(site.parent.parent.parent / "bin" / "python")
    for extra, main in (
        ("alpha/plug.py,,\n", "import alpha.plug; alpha.plug.get()"),
        ("alpha/__init__.py,,\n", "import alpha; alpha.fetch()"),
    ):

        def edited(_: str, extra: str = extra) -> list[str]:
            record.write_text("evil/__init__.py,,\n" + extra)
            return [python, "main.py"]

        done = programs.run(POLICY, main, command=edited)
        assert done.seen == [] and done.summary["denied"] == 1, done.said()
    (site / "alpha" / "plug.py").unlink()
