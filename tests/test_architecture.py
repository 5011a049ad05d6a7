"""The house rules that a tool can check: room rules, sizes, annotations, forbidden names, the import law.

Lives here: tests of the tree itself. May not live here: tests of behaviour.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "proxy" / "outpass").rglob("*.py"), *(ROOT / "client_shim" / "python" / "outpass_shim").rglob("*.py")])
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
FUNCTIONS = [
    (path, node)
    for path, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_opens_with_its_room_rule(path: Path) -> None:
    text = ast.get_docstring(TREES[path]) or ""
    assert "ives here" in text, "say what lives here and what may not"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_median_file_has_at_most_150_lines() -> None:
    assert statistics.median(len(p.read_text().splitlines()) for p in SOURCES) <= 150


def test_no_function_is_longer_than_60_lines() -> None:
    long = [f"{name_of(p)}:{n.lineno} {n.name}" for p, n in FUNCTIONS if (n.end_lineno or 0) - n.lineno + 1 > 60]
    assert long == []


def test_nine_functions_of_ten_have_at_most_40_lines() -> None:
    sizes = sorted((n.end_lineno or 0) - n.lineno + 1 for _, n in FUNCTIONS)
    assert sizes[int(len(sizes) * 0.9)] <= 40


def test_every_return_is_annotated() -> None:
    assert [f"{name_of(p)}:{n.lineno} {n.name}" for p, n in FUNCTIONS if n.returns is None] == []


def test_no_module_is_named_for_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
    assert [name_of(p) for p in SOURCES if p.stem in vague] == []


def test_no_folder_makes_a_package_called_proxy_or_tests() -> None:
    assert not any((ROOT / folder / "__init__.py").exists() for folder in ("proxy", "client_shim", "tests"))


def test_the_import_law_holds() -> None:
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_shim_imports_the_standard_library_only() -> None:
    outside = set()
    for path, tree in TREES.items():
        if "client_shim" not in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            outside |= {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - {"outpass_shim"}
    assert outside == set()


def test_the_launcher_imports_the_standard_library_only() -> None:
    outside = set()
    for path, tree in TREES.items():
        if "jail" in path.relative_to(ROOT).parts:
            for node in ast.walk(tree):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                outside |= {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - {"outpass"}
    assert outside == set()


def test_no_file_names_a_machine_or_an_index() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    secret = re.compile(r"/root/\.pyenv|/work/(main|shared|\.library)")
    found = []
    for name in listed:
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2_000_000 and name != "tests/test_architecture.py":
            found += [name] if secret.search(path.read_bytes().decode("utf-8", "replace")) else []
    assert found == []
    assert "uv.lock" not in listed
