"""`outpass doctor`: can there be a jail here, and if not, what is missing?

Lives here: the command and its table. May not live here: trying things out (jail.probe).
"""

from __future__ import annotations

import os

import click

from outpass.cli import say
from outpass.errors import EXIT_DENY, EXIT_OK, StartError
from outpass.jail import host, probe, recipe, seccomp
from outpass.jail.recipe import JailRequest


def _refusal(machine: recipe.Host) -> StartError | None:
    """What `run` would say before trying anything."""
    try:
        recipe.check(JailRequest(cwd="/"), machine)
    except StartError as problem:
        return problem
    return None


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(as_json: bool) -> int:
    """Try every step of the kernel jail as the user you are, and say what is missing and how to get it.

    Exit 0 when `outpass run` can make a jail here, 1 when it cannot. Changes nothing.
    """
    machine = host.look(os.environ)
    refusal = _refusal(machine)
    findings = [] if refusal and machine.machine not in seccomp.MACHINES else probe.examine(machine)
    possible = refusal is None and not any(f.fatal for f in findings)
    if as_json:
        say.data(_document(machine, findings, refusal, possible))
        return EXIT_OK if possible else EXIT_DENY
    width = max((len(f.name) for f in findings), default=0)
    for finding in findings:
        verdict = "ok" if finding.works else "NO" if finding.sort == probe.WALL else "missing"
        click.echo(f"{finding.name:<{width}}  {verdict:<7}  {finding.said}".rstrip())
        if finding.hint:
            click.echo(f"{'':<{width}}           {finding.hint}")
    if refusal:
        say.failure(refusal)
    identity = "root: the whole recipe" if machine.privileged else f"uid {machine.uid}"
    pids = "process numbers of its own" if machine.own_pids else "CMD keeps its process number"
    click.echo(f"\n{'a jail is possible here' if possible else 'no jail is possible here'} ({identity}; {pids})")
    return EXIT_OK if possible else EXIT_DENY


def _document(
    machine: recipe.Host, findings: list[probe.Finding], refusal: StartError | None, possible: bool
) -> dict[str, object]:
    return {
        "schema": "outpass.doctor/1",
        "possible": possible,
        "error": refusal.message if refusal else None,
        "uid": machine.uid,
        "privileged": machine.privileged,
        "machine": machine.machine,
        "own_pids": machine.own_pids,
        "landlock_abi": machine.landlock,
        "findings": [{"name": f.name, "sort": f.sort, "works": f.works, "said": f.said, "hint": f.hint} for f in findings],
        "settings": probe.settings(),
    }
