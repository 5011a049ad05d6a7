"""Installation: what the start does, and that it stays out of the program's way.

Lives here: sitecustomize, imports, the environment. May not live here: what the patches do.
"""

from __future__ import annotations

import os

import pytest

from tests.shim.rig import SHIM, World


def test_without_outpass_in_the_environment_the_shim_does_nothing_at_all(world: World) -> None:
    world.env["OUTPASS_MINT"] = ""
    world.run("import os, sys; assert not [m for m in sys.modules if 'outpass' in m]; assert os.fork.__name__ == 'fork'")


def test_its_directory_leaves_sys_path_but_stays_in_the_environment_for_children(world: World) -> None:
    world.run("import os, sys; d = os.environ['PYTHONPATH'].split(':')[0]; assert d.endswith('inject') and d not in sys.path")


def test_outpass_s_own_packages_do_not_become_importable(world: World) -> None:
    show = "import sys; print(sys.path)"
    with_shim = world.run(show).stdout
    world.env["OUTPASS_MINT"] = ""
    assert world.run(show).stdout == with_shim


@pytest.mark.parametrize("mint", [True, False], ids=["with outpass", "without"])
def test_the_next_sitecustomize_runs_under_its_own_name(world: World, mint: bool) -> None:
    (world.site / "sitecustomize.py").write_text("import sys\nsys.ran = __file__\n")
    if not mint:
        world.env["OUTPASS_MINT"] = ""
    done = world.run("import sys, sitecustomize; print(sys.ran == sitecustomize.__file__, sitecustomize.__file__)")
    assert done.stdout.strip() == f"True {world.site / 'sitecustomize.py'}"


def test_an_error_in_the_next_sitecustomize_is_reported_as_python_does(world: World) -> None:
    (world.site / "sitecustomize.py").write_text("1/0\n")
    done = world.run("import urllib.request as u; u.urlopen('http://x.example.com/')")
    assert "ZeroDivisionError" in done.stderr
    assert world.broker.chains() == [["app"]]


def test_a_failing_installation_is_one_error_and_a_process_without_passes(world: World) -> None:
    world.env["OUTPASS_PROXY"] = world.proxy.address
    (world.where / "broken").mkdir()
    (world.where / "broken" / "inject").mkdir()
    (world.where / "broken" / "__init__.py").write_text("raise RuntimeError('broken on purpose')\n")
    (world.where / "broken" / "inject" / "sitecustomize.py").write_text((SHIM / "inject" / "sitecustomize.py").read_text())
    world.env["PYTHONPATH"] = str(world.where / "broken" / "inject")
    done = world.run("import urllib.request as u; u.urlopen('http://x.example.com/')")
    assert done.stderr.splitlines()[0] == "outpass: error: the shim could not be installed: RuntimeError: broken on purpose"
    assert "Traceback" not in done.stderr
    assert "proxy-authorization" not in world.proxy.heads[0]


def test_a_plain_program_loads_nothing_that_python_itself_would_not(world: World) -> None:
    plain = world.environment()
    show = "import sys; print(' '.join(sorted(sys.modules)))"
    with_shim = set(world.run(show).stdout.split())
    world.env["OUTPASS_MINT"] = ""
    without = set(world.run(show).stdout.split())
    extra = {m for m in with_shim - without if not m.startswith("outpass_shim")}
    assert extra <= {"time"}, extra
    assert plain["OUTPASS_MINT"]


def test_a_library_that_the_shim_does_not_know_is_said_once_and_gets_no_passes(world: World) -> None:
    (world.site / "h11").mkdir()
    (world.site / "h11" / "__init__.py").write_text("Connection = None\n")
    done = world.run("import h11")
    (line,) = done.stderr.splitlines()
    assert line.startswith("outpass: error: this version of h11 is not known to the shim (AttributeError: ")


def test_a_module_patched_on_import_keeps_its_own_loader_and_spec(world: World) -> None:
    world.run(
        """
        import http.client, importlib, inspect, socket, ssl
        for m in (http.client, socket, ssl):
            assert type(m.__loader__).__name__ == type(m.__spec__.loader).__name__ == "SourceFileLoader", m
            assert inspect.getsource(m)
        importlib.reload(socket)
        import urllib.request; urllib.request.urlopen("http://x.example.com/")
        try: socket.create_connection(("192.0.2.1", 80)); raise SystemExit("the guard is gone")
        except PermissionError: pass
        """
    )


def test_the_hello_says_what_the_protocol_names(world: World) -> None:
    world.run("import urllib.request as u; u.urlopen('http://x.example.com/')")
    hello = world.broker.of("hello")[0]
    fields = {"op", "v", "lang", "runtime", "shim", "prefix", "paths", "argv", "cwd", "spawn", "fork_of"}
    assert set(hello) - {"_pid", "_bytes"} == fields
    assert str(world.site) in hello["paths"]
    assert hello["cwd"] == os.path.realpath(world.app)
    assert hello["argv"] == [str(world.app / "main.py")]
    assert (hello["v"], hello["lang"], hello["spawn"], hello["fork_of"]) == (1, "python", None, None)


def test_equal_questions_are_equal_bytes(world: World) -> None:
    """The broker answers what it knows without parsing it again."""
    world.run("import urllib.request as u\nfor _ in range(3): u.urlopen('http://x.example.com/')")
    assert len({m["_bytes"] for m in world.broker.of("mint")}) == 1


def test_threads_have_connections_of_their_own_and_a_handler_in_between_too(world: World) -> None:
    done = world.run(
        """
        import signal, threading, urllib.request as u
        from concurrent.futures import ThreadPoolExecutor
        def get(_): return u.urlopen("http://x.example.com/").read()
        signal.signal(signal.SIGALRM, lambda *_: get(0))
        get(0)
        for i in range(30):
            signal.setitimer(signal.ITIMER_REAL, 0.0001 * (i + 1))  # one shot: it strikes somewhere within the next requests
            get(0); get(0)
        with ThreadPoolExecutor(8) as pool:
            out = list(pool.map(get, range(100)))
        assert out == [b"ok"] * 100
        """
    )
    assert done.stderr == ""
    passes = [h["proxy-authorization"][0] for h in world.proxy.heads]
    assert len(set(passes)) == len(passes) >= 161
