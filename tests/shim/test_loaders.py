"""Loaders that run code under a file's name: what they may name, and what they are not believed.

Lives here: importlib's loaders called by hand, runpy, files whose times were set back. May not live here: the walk (test_chain).
"""

from __future__ import annotations

import sys
import zipfile

import pytest

from tests.shim.rig import World

GET = "from urllib.request import urlopen\ndef get(): return urlopen('http://x.example.com/').read()\n"
CODE = GET + "get()\n"
LOAD = "import importlib.machinery as m, sys\n"


def chain_of(world: World, source: str) -> list[str]:
    """The one chain that a program asks a pass for; `evil` and `alpha` are installed, `helper` is the application's."""
    world.package("alpha", GET)
    (world.app / "helper.py").write_text("")
    world.run(source)
    (chain,) = world.broker.chains()
    return chain


@pytest.mark.parametrize(
    ("sentence", "evil"),
    [
        (
            "a source loader made for somebody else's file does not rename the module that it runs in",
            LOAD + GET + "def go(file):\n    m.SourceFileLoader('evil', file).exec_module(sys.modules['evil'])\n    get()\n",
        ),
        (
            "runpy given code that only claims the file",
            f"import runpy\ndef go(file):\n    runpy._run_code(compile({CODE!r}, file, 'exec'), {{}})\n",
        ),
        (
            "the same in a thread",
            f"import runpy, threading\ndef go(file):\n    code = compile({CODE!r}, file, 'exec')\n"
            "    t = threading.Thread(target=runpy._run_code, args=(code, {})); t.start(); t.join()\n",
        ),
    ],
)
@pytest.mark.parametrize("file", ["alpha.__file__", "helper.__file__"], ids=["a package's file", "the application's file"])
def test_a_file_s_name_is_not_got_by_naming_it(world: World, sentence: str, evil: str, file: str) -> None:
    world.package("evil", evil)
    chain = chain_of(world, f"import evil, alpha, helper; evil.go({file})")
    assert chain[0] in ("!evil", "!alpha", "!app"), sentence
    assert chain[-1] == "app"
    assert "alpha" not in chain
    if chain[0] != "!evil":
        assert "evil" in chain, "who ran it is charged too"


def test_a_module_that_is_reloaded_keeps_its_name(world: World) -> None:
    assert chain_of(world, "import alpha, importlib; importlib.reload(alpha); alpha.get()") == ["alpha", "app"]


def test_what_runpy_itself_reads_from_the_application_s_file_is_the_application(world: World) -> None:
    (world.app / "job.py").write_text(CODE)
    assert chain_of(world, "import runpy; runpy.run_path('job.py')") == ["app"]


def test_an_application_s_file_with_its_time_set_back_is_still_younger_than_the_launch(world: World) -> None:
    source = f"import os; open('late.py', 'w').write({GET!r}); os.utime('late.py', (1e9, 1e9)); import late; late.get()"
    assert chain_of(world, source) == ["!app", "app"]


@pytest.mark.parametrize("tool", ["cProfile", "profile", "trace --trace", "pdb -c continue"])
@pytest.mark.parametrize("beside", [False, True], ids=["of the script", "of a module"])
def test_what_a_tool_of_python_s_own_runs_is_the_application(world: World, tool: str, beside: bool) -> None:
    (world.app / "helper.py").write_text(CODE)
    world.run("import helper" if beside else CODE, "-m", *tool.split(), "main.py")
    assert world.broker.chains()[0] == ["app"]


def test_a_profiler_given_code_that_only_claims_the_file_proves_nothing(world: World) -> None:
    run = "d = {'__name__': 'x'}; profile.Profile().runctx(compile(CODE, file, 'exec'), d, d)"
    world.package("evil", f"import profile\nCODE = {CODE!r}\ndef go(file):\n    {run}\n")
    (world.app / "helper.py").write_text("pass\n")
    world.run("import evil, os; evil.go(os.path.abspath('helper.py'))")
    (chain,) = world.broker.chains()
    assert chain[0] == "!app" and "evil" in chain


def test_exec_as_a_profiler_calls_it_still_finds_the_names_around_it(world: World) -> None:
    told = world.run(
        "import profile\ndef f(): x = 1; profile.exec('print(x, __name__)')\nf(); profile.exec('print(y)', {'y': 2})"
    )
    assert told.stdout == "1 __main__\n2\n"


ZIPPED = {"__main__.py": "import inside.part", "inside/__init__.py": "", "inside/part.py": CODE}


def zipped(world: World) -> None:
    with zipfile.ZipFile(world.app / "app.pyz", "w") as made:
        for name, text in ZIPPED.items():
            made.writestr(name, text)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="zipimport has no exec_module before 3.10: its modules are only claimed")
def test_the_modules_of_an_archive_in_the_project_are_the_application(world: World) -> None:
    zipped(world)
    world.run("", "app.pyz")
    assert world.broker.chains() == [["app"]]


@pytest.mark.parametrize(
    "forged",
    [
        "loader = zipimporter(mine); loader.archive = theirs",
        "loader = zipimporter(mine); loader.get_filename = lambda name: theirs + '/inside/part.py'",
        "loader = type('Z', (zipimporter,), {'get_filename': lambda self, name: theirs + '/inside/part.py'})(mine)",
        "loader = zipimporter(mine); loader._files = {n: (t[0].replace('evil.zip', 'app.pyz'), *t[1:]) for n, t in loader._files.items()}",
    ],
)
def test_an_archive_s_name_is_not_got_by_naming_it(world: World, forged: str) -> None:
    zipped(world)
    evil = (
        "import types, zipfile\nfrom zipimport import zipimporter\n"
        f"def go(theirs):\n    mine = __file__[:-11] + 'evil.zip'\n    with zipfile.ZipFile(mine, 'w') as z: z.writestr('part.py', {GET!r} + 'got = get()')\n"
        f"    {forged}\n    module = types.ModuleType('part')\n    loader.exec_module(module)\n"
    )
    world.package("evil", evil)
    world.run("import evil, os; evil.go(os.path.abspath('app.pyz'))", check=False)
    assert all(chain[0] != "app" and "evil" in chain for chain in world.broker.chains()), world.broker.chains()


DOTS = "sys.path.insert(0, top + '/' + os.path.relpath(evil, top))"
ELSEWHERE = {
    "the application's": "os.path.dirname(__file__)",
    "another package's": "os.path.dirname(alpha.__file__)",
    "the standard library's": "os.path.dirname(os.__file__)",
    "the shim's": "os.path.dirname(sys.modules['outpass_shim'].__file__)",
}
LINKS = {
    "a link to the directory": "os.symlink(evil, top + '/plug'); sys.path.insert(0, top + '/plug')",
    "a link to the file": "os.mkdir(top + '/plug'); os.symlink(evil + '/steal.py', top + '/plug/steal.py'); sys.path.insert(0, top + '/plug')",
    "a link, then dots": "os.mkdir(evil + '/sub'); os.symlink(evil + '/sub', top + '/plug'); sys.path.insert(0, top + '/plug/..')",
}


@pytest.mark.parametrize(
    ("whose", "way"),
    [*((w, DOTS) for w in ELSEWHERE), *((w, way) for w in ("the application's", "another package's") for way in LINKS.values())],
    ids=[
        *(f"a path with dots from {w}" for w in ELSEWHERE),
        *(f"{n} in {w}" for w in ("the application's", "another's") for n in LINKS),
    ],
)
def test_a_package_s_file_reached_by_another_s_directory_is_still_the_package_s(world: World, whose: str, way: str) -> None:
    """The file is old, and listed as evil's. Who may not write somewhere can still make a path that begins there."""
    world.package("evil", "")
    (world.site / "evil" / "steal.py").write_text(GET)
    source = (
        f"import alpha, os, sys\nevil, top = {str(world.site / 'evil')!r}, {ELSEWHERE[whose]}\n{way}\nimport steal; steal.get()"
    )
    assert chain_of(world, source) == ["evil", "app"]


def test_a_library_beside_the_project_is_not_the_project_s_because_its_path_begins_there(world: World) -> None:
    (world.where / "beside").mkdir()
    (world.where / "beside" / "far.py").write_text(GET)
    assert chain_of(world, "import sys; sys.path.append(sys.path[0] + '/../beside'); import far; far.get()") == ["?", "app"]


def test_a_directory_of_the_project_that_is_a_link_to_elsewhere_is_the_project_s(world: World) -> None:
    (world.where / "shared").mkdir()
    (world.where / "shared" / "far.py").write_text(GET)
    (world.app / "lib").symlink_to(world.where / "shared")
    assert chain_of(world, "import lib.far; lib.far.get()") == ["app"]


def test_an_installation_made_of_links_to_a_cache_is_what_it_says(world: World) -> None:
    for directory in (world.where / "cache", world.where / ".venv" / "site-packages" / "beta"):
        directory.mkdir(parents=True)
    (world.where / "cache" / "linked.py").write_text(GET)
    linked = world.where / ".venv" / "site-packages" / "beta" / "linked.py"
    linked.symlink_to(world.where / "cache" / "linked.py")
    world.owners[str(linked.parent)] = "beta"
    assert chain_of(world, f"import sys; sys.path.append({str(linked.parent)!r}); import linked; linked.get()") == ["beta", "app"]
