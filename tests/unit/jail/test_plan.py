"""The environment that CMD gets."""

from __future__ import annotations

import pytest

from outpass.jail import plan

DOOR = plan.Door("127.0.0.1:3128", "/run/o/mint.sock", "/run/o/ca.pem", "/run/o/bundle.pem")


def environment(**base: str) -> dict[str, str]:
    return plan.environment(base, DOOR, "/shim/inject")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_every_proxy_variable_leads_to_the_gate_whatever_was_inherited(name: str) -> None:
    assert environment(**{name: "http://corporate:8080"})[name] == "http://127.0.0.1:3128"


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_an_inherited_no_proxy_opens_nothing_but_loopback(name: str) -> None:
    assert environment(**{name: "*"})[name] == "localhost,127.0.0.1,::1"


@pytest.mark.parametrize("name", plan.SCRUBBED)
def test_variables_that_lead_elsewhere_are_scrubbed_in_both_cases(name: str) -> None:
    env = environment(**{name: "x", name.lower(): "x"})
    assert name not in env and name.lower() not in env


@pytest.mark.parametrize("name", plan.BUNDLE_VARIABLES)
def test_variables_that_replace_a_trust_store_get_the_whole_bundle(name: str) -> None:
    assert environment(**{name: "/old.pem"})[name] == "/run/o/bundle.pem"


@pytest.mark.parametrize("name", plan.EXTRA_CA_VARIABLES)
def test_variables_that_add_to_a_trust_store_get_the_ca_alone(name: str) -> None:
    assert environment()[name] == "/run/o/ca.pem"


def test_the_shim_comes_first_on_pythonpath_and_the_old_path_stays() -> None:
    assert environment(PYTHONPATH="/mine")["PYTHONPATH"] == "/shim/inject:/mine"
    assert environment()["PYTHONPATH"] == "/shim/inject"


def test_everything_else_is_handed_on_unchanged() -> None:
    env = environment(HOME="/home/me", STRIPE_KEY="sk")
    assert env["HOME"] == "/home/me" and env["STRIPE_KEY"] == "sk"


@pytest.mark.parametrize(
    ("sentence", "command", "cwd", "declared", "expected"),
    [
        ("the working directory by default", ["python", "-m", "x"], "/srv/app", [], ["/srv/app"]),
        ("and the script's own", ["python", "/opt/job/main.py"], "/srv", [], ["/srv", "/opt/job"]),
        ("a script given relatively", ["python", "sub/main.py"], "/srv", [], ["/srv", "/srv/sub"]),
        ("never the root directory", ["python", "/opt/job/main.py"], "/", [], ["/opt/job"]),
        ("what is declared, and nothing else", ["python", "/opt/job/main.py"], "/srv", ["/a", "/b/"], ["/a", "/b"]),
        ("an option ends the search for nothing", ["python", "-X", "dev", "main.py"], "/srv", [], ["/srv"]),
    ],
)
def test_roots(sentence: str, command: list[str], cwd: str, declared: list[str], expected: list[str]) -> None:
    assert plan.roots(command, cwd, declared) == expected, sentence
