"""The two wheels: what is in them, what they need, and that the shim's works under every Python that it claims.

Lives here: the results of tools/smoke_shim.py, asserted. May not live here: how wheels are built and tried.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smoke_shim", ROOT / "tools" / "smoke_shim.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["smoke_shim"] = module
    spec.loader.exec_module(module)
    return module


smoke = _tool()
INTERPRETERS = smoke.interpreters()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return smoke.build(ROOT / "client_shim" / "python", tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def outpass(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return smoke.build(ROOT, tmp_path_factory.mktemp("outpass"))


def test_the_shim_s_wheel_holds_its_sources_and_nothing_else(shim: Any) -> None:
    here = ROOT / "client_shim" / "python"
    sources = {str(p.relative_to(here)) for p in (here / "outpass_shim").rglob("*") if p.suffix == ".py" or p.name == "py.typed"}
    packed = {n for n in shim.names if ".dist-info/" not in n}
    assert packed == sources
    assert "outpass_shim/inject/sitecustomize.py" in packed


def test_the_shim_needs_nothing_but_python_3_9(shim: Any) -> None:
    assert shim.field("Requires-Dist") == []
    assert shim.field("Requires-Python") == [">=3.9"]
    assert shim.path.name.endswith("-py3-none-any.whl")


def test_outpass_s_wheel_holds_its_package_and_the_policies_and_no_tests(outpass: Any) -> None:
    packed = {n.split("/")[0] for n in outpass.names if ".dist-info/" not in n}
    assert packed == {"outpass"}
    assert any(n.startswith("outpass/policies/") for n in outpass.names)
    assert not any("tests/" in n or Path(n).name.startswith("test_") or n.endswith(".pyc") for n in outpass.names)


def test_both_distributions_have_one_version_and_outpass_pins_the_shim_to_it(shim: Any, outpass: Any) -> None:
    from outpass_shim import __version__

    assert shim.field("Version") == outpass.field("Version") == [__version__]
    assert f"outpass-shim=={__version__}" in outpass.field("Requires-Dist")


@pytest.mark.parametrize("version", INTERPRETERS)
def test_the_shim_s_wheel_works_when_installed(shim: Any, tmp_path: Path, version: str) -> None:
    python = INTERPRETERS[version]
    if python is None:
        pytest.skip(f"python {version} is absent here")
    assert smoke.try_wheel(python, shim.path, tmp_path / "venv") == ""


def test_the_interpreters_of_this_machine_include_the_one_that_runs_the_tests() -> None:
    absent = [v for v, python in INTERPRETERS.items() if python is None]
    print("absent:", ", ".join(absent) or "none")
    assert f"3.{sys.version_info[1]}" in INTERPRETERS
