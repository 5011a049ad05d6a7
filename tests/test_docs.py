"""What the documents say about the code is what the code says.

Lives here: documents against code. May not live here: opinions about prose.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from outpass.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "proxy/README.md", "client_shim/PROTOCOL.md"]


def test_reasons_are_documented_as_they_are() -> None:
    spec = importlib.util.spec_from_file_location("gen_reasons", ROOT / "tools" / "gen_reasons.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "proxy" / "REASONS.md").read_text() == module.text(), "run python tools/gen_reasons.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_names_every_command_and_its_options_exist(command: str) -> None:
    readme = (ROOT / "README.md").read_text()
    row = next(line for line in readme.splitlines() if line.startswith(f"| `outpass {command}"))
    helped = subprocess.run(
        [Path(sys.executable).parent / "outpass", command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in re.findall(r"--[a-z-]+", row.partition(" | ")[0]):
        assert option in helped, f"{command} has no {option}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_test_paths_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    paths = re.findall(r"`((?:tests|tools|policies|proxy|client_shim)/[\w/.-]+)`", text)
    for link in links:
        assert (ROOT / document).parent.joinpath(link).exists(), link
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_claim_in_security_has_a_test_folder() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    table = text.partition("## You can rely on")[2].partition("## Known")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    assert rows and all("`tests/" in row for row in rows)
