"""What decide() answers while a policy is only tried out, and who decides whether a tunnel is looked into."""

from __future__ import annotations

import pytest

from outpass.model import EgressRequest
from outpass.policy.decide import decide
from tests.support.policies import NOW, ask, compiled

INTRA = "https://intra.example.com/x"


AUDIT = compiled(
    """
    mode: audit
    ceiling: {http: ["https://**.example.com/", "http://169.254.169.254/", "http://127.0.0.1/"]}
    packages:
      stripe: {versions: ">=11", allow: [network:http], http: ["https://api.example.com/"], deny: {http: ["https://no.example.com/"]}}
      strict: {mode: enforce, allow: [network:http], http: ["https://api.example.com/"]}
    """
)
ROLLOUT = compiled(
    """
    packages:
      new: {mode: audit}
      old: {allow: [network:http], http: ["https://api.example.com/"]}
    """
)


@pytest.mark.parametrize(
    "sentence, policy, request_, verdict, reason",
    [
        ("no right", AUDIT, ask("left-pad > app", INTRA), "would_deny", "no_capability"),
        ("no rule", AUDIT, ask("stripe@11 > app", INTRA), "would_deny", "no_rule"),
        ("a deny rule", AUDIT, ask("stripe@11 > app", "https://no.example.com/"), "would_deny", "denied_by_rule"),
        ("a version", AUDIT, ask("stripe@1 > app", "https://api.example.com/"), "would_deny", "version_out_of_range"),
        ("unknown code", AUDIT, ask("?", INTRA), "would_deny", "unproven"),
        ("nobody", AUDIT, ask("unattributed", INTRA), "would_deny", "unattributed"),
        ("a right is no news", AUDIT, ask("stripe@11 > app", "https://api.example.com/"), "allow", "allowed"),
        ("a private address", AUDIT, ask("stripe@11", "https://api.example.com/", to="10.0.0.1"), "would_deny", "address_private"),
        ("a private address without a rule", AUDIT, ask("left-pad", INTRA, to="10.0.0.1"), "would_deny", "no_capability"),
        ("never the ceiling", AUDIT, ask("left-pad", "https://example.org/"), "deny", "outside_ceiling"),
        ("never metadata", AUDIT, ask("left-pad", "http://169.254.169.254/"), "deny", "address_metadata"),
        ("never metadata behind a name", AUDIT, ask("left-pad", INTRA, to="169.254.169.254"), "deny", "address_metadata"),
        ("never metadata behind a private address", AUDIT,
         ask("stripe@11", "https://api.example.com/", to=("10.0.0.1", "169.254.169.254")), "deny", "address_metadata"),
        ("never loopback", AUDIT, ask("left-pad", "http://127.0.0.1/"), "deny", "address_loopback"),
        ("never a bad target", AUDIT, ask("left-pad", INTRA)._replace(path="/../x"), "deny", "bad_target"),
        ("a package that enforces under it", AUDIT, ask("strict", INTRA), "deny", "no_rule"),
        ("one enforcing caller is enough", AUDIT, ask("left-pad > strict", INTRA), "deny", "no_rule"),
        ("one package in audit", ROLLOUT, ask("new > app", INTRA), "would_deny", "no_capability"),
        ("its enforcing caller", ROLLOUT, ask("new > left-pad > app", INTRA), "deny", "no_capability"),
        ("its caller with the right", ROLLOUT, ask("new > old > app", "https://api.example.com/"), "would_deny", "no_capability"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_audit_mode(sentence: str, policy: object, request_: EgressRequest, verdict: str, reason: str) -> None:
    decision = decide(policy, request_, now=NOW)  # type: ignore[arg-type]
    assert (decision.verdict.value, decision.reason.value) == (verdict, reason), sentence


TUNNELS = compiled(
    """
    packages:
      pinned: {allow: [network:http], http: [{url: "https://pin.example.com/", intercept: false}]}
      pinned-too: {allow: [network:http], http: [{url: "https://**.example.com/", intercept: false}]}
      looks: {allow: [network:http], http: ["https://pin.example.com/v1/**"]}
      mixed: {allow: [network:http], http: [{url: "https://pin.example.com/", intercept: false}, "https://pin.example.com/v1/**"]}
      denies: {allow: [network:http], http: [{url: "https://pin.example.com/", intercept: false}], deny: {http: ["https://pin.example.com/x"]}}
    """
)


@pytest.mark.parametrize(
    "sentence, chain, intercept",
    [
        ("the only rule asks for a closed tunnel", "pinned > app", False),
        ("two principals both ask for it", "pinned > pinned-too > app", False),
        ("a caller that has an http rule as well", "pinned > mixed > app", True),
        ("a caller's rule needs to look inside", "pinned > looks > app", True),
        ("an http rule wins where both fit", "mixed > app", True),
        ("a deny rule for a path needs to look inside", "denies > app", True),
    ],
)
def test_who_decides_whether_a_tunnel_is_looked_into(sentence: str, chain: str, intercept: bool) -> None:
    decision = decide(TUNNELS, ask(chain, "https://pin.example.com/", host_only=True), now=NOW)
    assert decision.allowed
    assert decision.intercept is intercept, sentence


def test_a_ceiling_with_a_path_needs_to_look_inside() -> None:
    rules = 'packages: {p: {allow: [network:http], http: [{url: "https://pin.example.com/", intercept: false}]}}'
    for ceiling, intercept in (("https://pin.example.com/v1/", True), ("https://pin.example.com/", False)):
        policy = compiled(f'ceiling: {{http: ["{ceiling}"]}}\n{rules}')
        assert decide(policy, ask("p", "https://pin.example.com/", host_only=True), now=NOW).intercept is intercept
