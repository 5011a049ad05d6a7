"""A gate's process holds the engine without what it does not use."""

from __future__ import annotations

import subprocess
import sys
import types
import typing
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver

from outpass.gate.engine import bare, options

REST = ("flask", "ldap3", "mitmproxy.addons.onboarding", "mitmproxy.flowfilter", "aioquic.quic.connection", "service_identity")
LOADED = "import outpass.gate.serve; print(*(name for name in {rest} if name in sys.modules))"


@pytest.mark.parametrize(
    ("before", "there"), [("from outpass.gate.engine import bare; bare.prepare(); ", ()), ("", REST)], ids=["bare", "stock"]
)
def test_a_gate_loads_no_web_application_no_directory_client_and_no_quic(before: str, there: tuple[str, ...]) -> None:
    code = f"import sys; {before}{LOADED.format(rest=REST)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert tuple(done.stdout.split()) == there


def test_what_the_engine_loaded_already_is_left_as_it_is() -> None:
    code = "import mitmproxy.addons as a; from outpass.gate.engine import bare; bare.prepare(); import mitmproxy.addons as b; print(a is b)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_what_is_absent_can_be_compared_with_and_not_made() -> None:
    module: Any = bare.Absent("mitmproxy.proxy.layers.http._http3")
    assert module.Http3Server is module.Http3Server and not isinstance(object(), module.Http3Server)
    with pytest.raises(NotImplementedError, match="the gate has no Http3Server"):
        module.Http3Server(object())
    with pytest.raises(AttributeError):
        _ = module.__path__


def test_the_options_are_those_that_the_engines_own_addon_declares() -> None:
    declared: list[tuple[str, Any, Any]] = []
    loader = types.SimpleNamespace(add_option=lambda name, kind, default, *_, **__: declared.append((name, kind, default)))
    Proxyserver().load(loader)

    def plain(kind: Any) -> set[Any]:
        return set(typing.get_args(kind)) or {kind}

    assert [(n, plain(k), d) for n, k, d in options.READ] == [(n, plain(k), d) for n, k, d in declared]
