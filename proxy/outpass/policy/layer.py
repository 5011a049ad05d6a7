"""Lays policy files over each other: allows and denies unite, ceilings intersect, the stricter mode wins.

Lives here: the one rule for each key. May not live here: reading includes (files.py), parsing (schema.py). Whatever else two
files say differently is an error: guessing which of them was meant would be deciding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from outpass.errors import Fault, Place, PolicyError
from outpass.policy.limits import NONE
from outpass.policy.rules import AUDIT, ENFORCE, Ceiling, Package, Policy, Rule


@dataclass(frozen=True, slots=True)
class Layer:
    """What one file says, parsed. `mode` is empty where the file does not set one."""

    file: str
    mode: str = ""
    transparent: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()
    ceiling: Ceiling | None = None
    packages: Mapping[str, Package] = field(default_factory=dict)
    programs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def unite(layers: Sequence[Layer]) -> Policy:
    """One policy from a root file (first) and what it includes. Raises PolicyError where files clash."""
    faults: list[Fault] = []
    packages: dict[str, Package] = {}
    for layer in layers:
        for name, entry in layer.packages.items():
            packages[name] = _both(packages[name], entry, faults) if name in packages else entry
    if faults:
        raise PolicyError(tuple(faults))
    return Policy(
        mode=_mode(layers),
        transparent=_all(layer.transparent for layer in layers),
        instruments=_all(layer.instruments for layer in layers),
        packages=packages,
        ceilings=tuple(layer.ceiling for layer in layers if layer.ceiling is not None),
        programs={
            name: _all(layer.programs.get(name, ()) for layer in layers)
            for name in dict.fromkeys(name for layer in layers for name in layer.programs)
        },
    )


def beneath(policy: Policy, top: Policy, mode: str) -> Policy:
    """`policy` under the operator's `top`: its ceilings and denies hold too, its modes win. `mode`: what its top says, or "".

    Raises PolicyError where `top` grants anything: what a package may do stands in one place, its own policy.
    """
    granting = [p for p in top.packages.values() if p.allow or p.lists]
    if granting:
        hint = "it may say mode, ceiling, and deny and mode of packages; grants belong into the policy of the run"
        raise PolicyError(
            tuple(Fault(Place(p.file, p.line), f"the operator's policy grants {p.name} something", hint) for p in granting)
        )
    packages = dict(policy.packages)
    for name, own in packages.items():
        above = top.packages.get(name)
        said = (above.mode if above is not None else "") or ("" if mode else own.mode)
        deny = _united(own.deny, above.deny) if above is not None else own.deny
        packages[name] = replace(own, mode=said, deny=deny)
    packages |= {name: above for name, above in top.packages.items() if name not in packages}
    return replace(policy, mode=mode or policy.mode, packages=packages, ceilings=(*policy.ceilings, *top.ceilings))


def _mode(layers: Sequence[Layer]) -> str:
    """A root file without a mode enforces; an included file without one has no opinion."""
    said = {layers[0].mode or ENFORCE} if layers else {ENFORCE}
    said |= {layer.mode for layer in layers[1:] if layer.mode}
    return ENFORCE if ENFORCE in said else AUDIT


def _all(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))


def _both(first: Package, second: Package, faults: list[Fault]) -> Package:
    if first.versions and second.versions and first.versions != second.versions:
        faults.append(
            Fault(
                Place(second.file, second.line),
                f"{second.name} has versions {second.versions!r} here and {first.versions!r} at {first.file}:{first.line}",
                "say it in one file only, or the same in both",
            )
        )
    if NONE not in {first.limits, second.limits} and first.limits != second.limits:
        faults.append(
            Fault(
                Place(second.file, second.line),
                f"{second.name} has limits {second.limits.text} here and {first.limits.text} at {first.file}:{first.line}",
                "say it in one file only, or the same in both",
            )
        )
    modes = {first.mode, second.mode} - {""}
    return Package(
        name=first.name,
        file=first.file,
        line=first.line,
        allow=first.allow | second.allow,
        lists=_united(first.lists, second.lists),
        deny=_united(first.deny, second.deny),
        versions=first.versions or second.versions,
        mode=ENFORCE if ENFORCE in modes else next(iter(modes), ""),
        limits=second.limits if first.limits == NONE else first.limits,
    )


def _united(first: Mapping[str, tuple[Rule, ...]], second: Mapping[str, tuple[Rule, ...]]) -> dict[str, tuple[Rule, ...]]:
    """As if the lists stood in one file: a list in either is a list, so a second file never widens it to `any public`."""
    return {c: (*first.get(c, ()), *second.get(c, ())) for c in dict.fromkeys((*first, *second))}
