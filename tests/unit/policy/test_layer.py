"""How policy files combine."""

from __future__ import annotations

import pytest

from outpass.errors import PolicyError
from outpass.policy.compiled import compile_policy as compile_
from outpass.policy.decide import decide
from tests.support.policies import NOW, ask, policy

STRIPE = 'packages: {stripe: {allow: [network:http], http: ["https://api.stripe.com/"]}}'


@pytest.mark.parametrize(
    "sentence, root, included, url, reason",
    [
        ("allows unite", STRIPE, 'packages: {stripe: {http: ["https://b.example.com/"]}}', "https://b.example.com/", "allowed"),
        ("denies unite", STRIPE, 'packages: {stripe: {deny: {http: ["https://api.stripe.com/"]}}}', "https://api.stripe.com/", "denied_by_rule"),
        ("a denial for everybody counts from anywhere", STRIPE, 'packages: {"*": {deny: {http: ["https://api.stripe.com/"]}}}',
         "https://api.stripe.com/", "denied_by_rule"),
        ("an include cannot turn a list into any public destination", STRIPE, "packages: {stripe: {allow: [network:http]}}",
         "https://c.example.com/", "no_rule"),
        ("a capability in one, its list in the other", "packages: {stripe: {allow: [network:http]}}",
         'packages: {stripe: {http: ["https://b.example.com/"]}}', "https://b.example.com/", "allowed"),
        ("ceilings intersect", STRIPE, 'ceiling: {http: ["https://other.example.com/"]}', "https://api.stripe.com/", "outside_ceiling"),
        ("a version range in one file holds for both", STRIPE, 'packages: {stripe: {versions: ">=20"}}', "https://api.stripe.com/",
         "version_out_of_range"),
    ],
)  # fmt: skip
def test_two_files(sentence: str, root: str, included: str, url: str, reason: str) -> None:
    for parts in ((root, included), (included, root)):
        assert decide(compile_(policy(*parts)), ask("stripe@11 > app", f"GET {url}"), now=NOW).reason == reason, sentence


@pytest.mark.parametrize(
    "root, included, mode",
    [
        ("{}", "{}", "enforce"),
        ("mode: audit", "packages: {}", "audit"),
        ("mode: audit", "mode: audit", "audit"),
        ("mode: audit", "mode: enforce", "enforce"),
        ("mode: enforce", "mode: audit", "enforce"),
        ("packages: {}", "mode: audit", "enforce"),
    ],
)
def test_the_stricter_mode_wins_and_an_include_without_one_has_no_opinion(root: str, included: str, mode: str) -> None:
    root, included = (text.replace("{}", "packages: {}") if text == "{}" else text for text in (root, included))
    assert policy(root, included).mode == mode


@pytest.mark.parametrize(
    "first, second, mode", [("audit", "enforce", "enforce"), ("audit", "", "audit"), ("", "enforce", "enforce"), ("", "", "")]
)
def test_the_stricter_mode_of_a_package_wins(first: str, second: str, mode: str) -> None:
    def entry(mode: str) -> str:
        return f"packages: {{a: {{{f'mode: {mode}' if mode else ''}}}}}"

    assert policy(entry(first), entry(second)).packages["a"].mode == mode


def test_two_version_ranges_are_a_clash_that_names_both_places() -> None:
    with pytest.raises(PolicyError) as caught:
        policy('packages: {a: {versions: ">=1"}}', '\n\npackages: {a: {versions: ">=2"}}')
    fault = caught.value.faults[0]
    assert fault.place.file == "i1.yaml"
    assert "a has versions '>=2' here and '>=1' at p.yaml:2" in fault.message


def test_names_that_are_skipped_unite() -> None:
    found = policy("transparent: [requests]", "transparent: [requests, httpx]\ninstruments: [sentry-sdk]")
    assert found.transparent == ("requests", "httpx")
    assert found.instruments == ("sentry-sdk",)
