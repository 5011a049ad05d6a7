"""Who is charged: chains as the broker is asked for them, by real programs with real packages.

Lives here: the walk over frames and its rules; golden chains stand in client_shim/vectors/chains.json. May not live here: what
travels through threads and tasks (test_origin.py).
"""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.shim.rig import VECTORS, World

ALPHA = """
from urllib.request import urlopen
def get(url="http://alpha.example.com/"):
    return urlopen(url).read()
def call(function, *args):
    return function(*args)
"""
WEBLIB = """
from urllib.request import urlopen
class Client:
    def send(self, url):
        return urlopen(url).read()
    def get(self, url):
        return self.send(url)
def get(url):
    return Client().get(url)
"""
SPY = """
import weblib
def install():
    original = weblib.Client.send
    def wrapped(self, url):
        return original(self, url)
    weblib.Client.send = wrapped
def export():
    return weblib.get("http://spy.example.com/")
"""
PACKAGES = {
    "alpha": ALPHA,
    "evil": "import alpha\ndef run(function, *args):\n    return function(*args)\n",
    "weblib": WEBLIB,
    "spy": SPY,
}


def asked(world: World, source: str, *args: str) -> list[str]:
    """The one chain that a program asks a pass for."""
    for name, text in PACKAGES.items():
        world.package(name, text)
    world.broker.reply.update(transparent=["weblib"], instruments=["sp*"])
    world.run(source, *args)
    (chain,) = world.broker.chains()
    return chain


GOLDEN = json.loads((VECTORS / "chains.json").read_text())["python"]


@pytest.mark.parametrize("case", GOLDEN, ids=[c["case"] for c in GOLDEN])
def test_golden_chains(world: World, case: dict[str, object]) -> None:
    assert asked(world, str(case["program"])) == case["chain"]


@pytest.mark.parametrize(
    "args",
    [("-c", "import alpha; alpha.get()"), ("-m", "tool")],
    ids=["python -c", "python -m of a module in a root"],
)
def test_what_is_main_at_launch_is_the_application(world: World, args: tuple[str, ...]) -> None:
    (world.app / "tool.py").write_text("import alpha\nif __name__ == '__main__': alpha.get()\n")
    assert asked(world, "", *args) == ["alpha", "app"]


def test_a_file_under_a_root_that_is_younger_than_the_launch_is_only_claimed(world: World) -> None:
    source = """
    import pathlib, sys, time
    late = pathlib.Path(__file__).with_name("late.py")
    late.write_text("from urllib.request import urlopen\\ndef get(): return urlopen('http://x.example.com/').read()\\n")
    import os; os.utime(late, (time.time() + 5, time.time() + 5))
    import late; late.get()
    """
    assert asked(world, source) == ["!app", "app"]


def test_a_package_that_changed_after_the_map_was_built_is_only_claimed(world: World) -> None:
    for name, text in PACKAGES.items():
        world.package(name, text)
    later = time.time() + 100
    os.utime(world.site / "alpha" / "__init__.py", (later, later))
    world.run("import alpha; alpha.get()")
    assert world.broker.chains() == [["!alpha", "app"]]


def test_a_file_in_a_site_that_no_distribution_owns_is_unknown(world: World) -> None:
    (world.site / "dropped.py").write_text(ALPHA)
    assert asked(world, "import dropped; dropped.get()") == ["?", "app"]


def test_a_file_outside_of_roots_and_sites_is_unknown(world: World) -> None:
    (world.where / "elsewhere").mkdir()
    (world.where / "elsewhere" / "far.py").write_text(ALPHA)
    world.env["PYTHONDONTWRITEBYTECODE"] = "1"
    assert asked(world, f"import sys; sys.path.append({str(world.where / 'elsewhere')!r}); import far; far.get()") == ["?", "app"]


@pytest.mark.parametrize(
    "kind, wanted",
    [("editable", "beta"), ("files", "beta"), ("nothing", "app")],
    ids=[
        "an editable install below a root is its own package",
        "a file of its own entry is its distribution's",
        "else it is app",
    ],
)
def test_below_a_root(world: World, kind: str, wanted: str) -> None:
    (world.app / "lib").mkdir()
    (world.app / "lib" / "beta.py").write_text(ALPHA)
    world.more = {
        "editable": {"editable": {f"{world.app}/lib/": "beta"}},
        "files": {"files": {f"{world.app}/lib/beta.py": "beta"}},
        "nothing": {},
    }[kind]
    chain = asked(world, "import sys, os; sys.path.insert(0, os.path.dirname(__file__) + '/lib'); import beta; beta.get()")
    assert chain == ([wanted, "app"] if wanted != "app" else ["app"])


def test_a_chain_of_more_than_64_is_cut_and_ends_in_unknown(world: World) -> None:
    world.package("p0", ALPHA)
    for i in range(1, 80):
        world.package(f"p{i}", f"import p{i - 1}\ndef get(): return p{i - 1}.get()\n")
    chain = asked(world, "import p79; p79.get()")
    assert len(chain) == 64
    assert chain[:2] == ["p0", "p1"]
    assert chain[-1] == "?"


def test_the_main_module_of_a_subinterpreter_is_unknown(world: World) -> None:
    source = """
    code = "import alpha; alpha.get()"
    try:
        import _interpreters as i
    except ImportError:
        import _xxsubinterpreters as i
    failed = i.exec(i.create("legacy"), code) if hasattr(i, "exec") else i.run_string(i.create(isolated=False), code)
    assert not failed, failed
    """
    assert asked(world, source) == ["alpha", "?"]


def test_a_module_that_is_executed_again_in_the_same_dictionary_is_named_by_its_new_file(world: World) -> None:
    assert asked(world, "import alpha, importlib; importlib.reload(alpha).get()") == ["alpha", "app"]


def test_modules_that_pytest_rewrites_are_what_their_files_are(world: World) -> None:
    (world.app / "test_it.py").write_text("import alpha\ndef test_it():\n    assert alpha.get() == b'ok'\n")
    # NOTE: the pytest that runs this test, seen from a program whose own packages are elsewhere
    world.env["PYTHONPATH_PYTEST"] = os.path.dirname(os.path.dirname(pytest.__file__))
    source = "import os, sys; sys.path.append(os.environ['PYTHONPATH_PYTEST']); import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-c', '/dev/null', 'test_it.py']))"
    assert asked(world, source) == ["alpha", "app"]
