"""A gate's process holds the engine without what it does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

REST = ("flask", "ldap3", "mitmproxy.addons.onboarding", "mitmproxy.flowfilter")
LOADED = "import outpass.gate.serve; print(*(name for name in {rest} if name in sys.modules))"


@pytest.mark.parametrize(
    ("before", "there"), [("from outpass.gate.engine import bare; bare.prepare(); ", ()), ("", REST)], ids=["bare", "stock"]
)
def test_a_gate_loads_no_web_application_and_no_directory_client(before: str, there: tuple[str, ...]) -> None:
    code = f"import sys; {before}{LOADED.format(rest=REST)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert tuple(done.stdout.split()) == there


def test_what_the_engine_loaded_already_is_left_as_it_is() -> None:
    code = "import mitmproxy.addons as a; from outpass.gate.engine import bare; bare.prepare(); import mitmproxy.addons as b; print(a is b)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
