"""The recipe: which steps, in which order, for whom."""

from __future__ import annotations

import pytest

from outpass.errors import StartError
from outpass.jail import places, recipe, steps
from outpass.jail.plan import Door
from outpass.jail.recipe import Host, JailRequest

DOOR = Door(
    "127.0.0.1:3128",
    "/run/user/1000/outpass/run-a/mint.sock",
    "/run/user/1000/outpass/run-a/ca.pem",
    "/run/user/1000/outpass/run-a/bundle.pem",
)
REQUEST = JailRequest(cwd="/srv/app", private=("/run/user/1000/outpass", "/home/me/.local/state/outpass"))
USER = Host(
    uid=1000,
    gid=1000,
    privileged=False,
    uids="1000 1000 1",
    gids="1000 1000 1",
    machine="x86_64",
    ipv6=True,
    landlock=7,
    fresh_proc=True,
    sockets=("/run/docker.sock", "/tmp/.X11-unix/X0", "/srv/app/dev.sock"),
    present=frozenset(
        {"/run", "/dev/shm", "/tmp", "/var/tmp", "/etc/resolv.conf", "/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt"}
    ),
)
ROOT = USER._replace(
    uid=0,
    gid=0,
    privileged=True,
    uids="0 0 65536",
    gids="0 0 65536",
    present=USER.present | {"/dev/null", "/dev/tty", "/sys", "/sys/fs/cgroup", "/proc/sys", "/proc/kcore", "/proc/acpi"},
)


def walls(
    request: JailRequest = REQUEST, host: Host = USER, door: Door = DOOR, without: tuple[str, ...] = ()
) -> list[steps.Step]:
    return recipe.walls(request, host, door, without)


def of[S](kind: type[S], found: list[steps.Step]) -> list[S]:
    return [s for s in found if isinstance(s, kind)]


def names(found: list[steps.Step]) -> list[str]:
    return [type(s).__name__ for s in found]


def test_the_steps_into_the_jail_in_order() -> None:
    assert names(recipe.enter(REQUEST, USER)) == [
        "Unshare",
        "MapIds",
        "LoopbackUp",
        "AnyAddress",
        "AnyAddress",
        *["Listen"] * 5,
        "Intercept",
        "Inspect",
    ]


@pytest.mark.parametrize(
    ("sentence", "host", "expected"),
    [
        ("a user keeps the process numbers", USER, ("user", "net", "mount", "ipc")),
        ("unless signals could leave", USER._replace(landlock=5), ("user", "net", "mount", "ipc", "pid")),
        ("root gets numbers of its own", ROOT, ("user", "net", "mount", "ipc", "pid")),
        ("unless the kernel refuses a fresh /proc", ROOT._replace(fresh_proc=False), ("user", "net", "mount", "ipc")),
    ],
)
def test_namespaces(sentence: str, host: Host, expected: tuple[str, ...]) -> None:
    assert recipe.enter(REQUEST, host)[0] == steps.Unshare(expected), sentence


def test_only_an_ordinary_user_gives_up_changing_groups() -> None:
    assert [of(steps.MapIds, recipe.enter(REQUEST, h))[0].setgroups for h in (USER, ROOT)] == [False, True]


def test_the_listeners_of_a_machine_without_ipv6() -> None:
    found = of(steps.Listen, recipe.enter(REQUEST, USER._replace(ipv6=False)))
    assert [(s.kind, s.address) for s in found] == [
        ("http", "127.0.0.1"),
        ("transparent", "0.0.0.0"),
        ("dns-udp4", "0.0.0.0"),
        ("dns-tcp", "0.0.0.0"),
    ]


def test_a_wall_is_needed_and_of_the_doors_only_the_explicit_one_and_the_forwarded() -> None:
    found = recipe.enter(REQUEST._replace(forward=(5432,)), USER)
    doors = [s for s in found if getattr(s, "needed", True) is False]
    assert {type(s) for s in doors} == {steps.AnyAddress, steps.Listen, steps.Intercept, steps.Inspect}
    assert [s.kind for s in of(steps.Listen, found) if s.needed] == ["http", "forward:5432"]


def test_privileges_are_given_up_last_and_in_an_order_that_works() -> None:
    assert names(walls())[-5:] == ["DropCapabilities", "NoNewPrivileges", "Scope", "Filter", "CloseOthers"]
    tail = names(walls(host=ROOT))
    assert tail[-6:] == ["DropCapabilities", "NoNewPrivileges", "Scope", "Filter", "Reaper", "CloseOthers"]
    assert tail.index("OwnPids") < tail.index("FreshProc") < tail.index("DropCapabilities")


def test_a_user_keeps_no_capability_and_root_none_that_reaches_outside() -> None:
    assert of(steps.DropCapabilities, walls())[0].keep == ()
    net_admin, net_raw, sys_ptrace, sys_admin, mknod = 12, 13, 19, 21, 27
    assert not {net_admin, net_raw, sys_ptrace, sys_admin, mknod} & set(of(steps.DropCapabilities, walls(host=ROOT))[0].keep)


def test_of_the_runtime_directory_only_four_things_are_visible() -> None:
    veils = {v.path: v for v in of(steps.Veil, walls())}
    base = "/run/user/1000/outpass/run-a"
    assert {k.path: k.read_only for k in veils["/run"].keeps} == {
        f"{base}/mint.sock": False,
        f"{base}/ca.pem": True,
        f"{base}/bundle.pem": True,
        f"{base}/maps": True,
    }
    assert veils["/home/me/.local/state/outpass"].keeps == ()


def test_sockets_outside_the_veils_are_masked_one_by_one() -> None:
    assert [m.path for m in of(steps.Mask, walls())] == ["/tmp/.X11-unix/X0", "/srv/app/dev.sock"]


def test_an_allowed_socket_is_neither_masked_nor_veiled() -> None:
    found = walls(REQUEST._replace(allow_unix=("/run/docker.sock", "/tmp/.X11-unix")))
    assert [m.path for m in of(steps.Mask, found)] == ["/srv/app/dev.sock"]
    assert "/run/docker.sock" in [k.path for v in of(steps.Veil, found) for k in v.keeps]


def test_a_kept_working_directory_below_a_veil_still_has_its_sockets_masked() -> None:
    host = USER._replace(sockets=("/run/build/agent.sock",))
    found = walls(REQUEST._replace(cwd="/run/build"), host)
    assert "/run/build" in [k.path for v in of(steps.Veil, found) for k in v.keeps]
    assert [m.path for m in of(steps.Mask, found)] == ["/run/build/agent.sock"]


def test_masks_come_after_veils_and_before_the_old_devices_go() -> None:
    found = names(walls(host=ROOT))
    last_plain_veil = found.index("Mask") - 1
    assert found[last_plain_veil] == "Veil" and found.index("Mask") < found.index("MinimalDevices")


def test_a_directory_of_certificates_takes_the_place_of_single_bundles() -> None:
    single = [(b.source, b.target) for b in of(steps.Bind, walls())]
    assert (DOOR.bundle, "/etc/ssl/certs/ca-certificates.crt") in single
    whole = of(steps.Bind, walls(door=DOOR._replace(certs="/run/user/1000/outpass/run-a/certs")))
    assert [b.target for b in whole if b.source != b.target] == ["/etc/ssl/certs"]


def test_javas_store_is_replaced_where_there_is_one() -> None:
    store = "/usr/lib/jvm/java-21/lib/security/cacerts"
    host = USER._replace(present=USER.present | {store})
    assert store not in [b.target for b in of(steps.Bind, walls(host=host))]
    door = DOOR._replace(java="/run/user/1000/outpass/run-a/cacerts.p12")
    assert steps.Bind(door.java, store) in walls(host=host, door=door)


def test_policies_in_force_are_read_only_with_what_they_include() -> None:
    found = walls(REQUEST._replace(policies=("/srv/app/outpass.yaml",)), door=DOOR._replace(files=("/srv/base.yaml",)))
    assert steps.Bind("/srv/app/outpass.yaml", "/srv/app/outpass.yaml") in found
    assert steps.Bind("/srv/base.yaml", "/srv/base.yaml") in found


def test_what_must_not_be_replaced_cannot_be_moved_away_with_its_directory() -> None:
    request = REQUEST._replace(policies=("/srv/app/outpass.yaml",), private=("/home/me/.config/outpass",))
    found = walls(request)
    pinned = [b.target for b in of(steps.Bind, found) if b.source == b.target and not b.read_only]
    assert pinned == ["/home", "/srv", "/home/me", "/srv/app", "/home/me/.config"], "outermost first"
    assert names(found).index("Bind") < names(found).index("Veil")


def test_ways_out_by_device_are_masked_for_a_user() -> None:
    host = USER._replace(present=USER.present | {"/dev/vhost-vsock", "/sys"})
    found = walls(host=host)
    assert steps.Mask("/dev/vhost-vsock") in found and steps.Bind("/sys", "/sys") in found


def test_a_resolver_file_that_leads_into_run_is_written_anew() -> None:
    host = USER._replace(real={"/etc/resolv.conf": "/run/systemd/resolve/stub-resolv.conf"})
    [run] = [v for v in of(steps.Veil, walls(host=host)) if v.path == "/run"]
    assert ("/run/systemd/resolve/stub-resolv.conf", places.RESOLVER_TEXT) in run.files


def test_without_anyip_names_are_asked_of_loopback() -> None:
    found = walls(without=("ip4",))
    [bind] = [b for b in of(steps.Bind, found) if b.target == "/etc/resolv.conf"]
    assert bind.source in [path for v in of(steps.Veil, found) for path, _ in v.files]


def test_a_private_tmp_veils_both_and_keeps_the_project() -> None:
    found = {v.path: v for v in of(steps.Veil, walls(REQUEST._replace(cwd="/tmp/x", private_tmp=True)))}
    assert [k.path for k in found["/tmp"].keeps] == ["/tmp/x"] and found["/var/tmp"].keeps == ()


def test_read_only_freezes_before_anything_is_veiled() -> None:
    found = names(walls(REQUEST._replace(read_only=True)))
    assert found.index("Freeze") < found.index("Veil")


def test_root_gets_devices_sys_and_proc_of_its_own_and_a_user_does_not() -> None:
    found = walls(host=ROOT)
    assert of(steps.MinimalDevices, found)[0].nodes == ("null", "tty")
    assert steps.Veil("/sys", 0o555, (steps.Keep("/sys/fs/cgroup", read_only=True),), read_only=True) in found
    assert steps.Bind("/proc/sys", "/proc/sys") in found and steps.Mask("/proc/kcore") in found
    assert not {"MinimalDevices", "FreshProc", "OwnPids", "Reaper"} & set(names(walls()))


def test_the_switches_of_proc_are_shut_after_proc_is_fresh() -> None:
    found = walls(host=ROOT)
    assert names(found).index("FreshProc") < found.index(steps.Bind("/proc/sys", "/proc/sys"))


@pytest.mark.parametrize(
    ("sentence", "request_", "host", "says"),
    [
        ("a machine without a table", REQUEST, USER._replace(machine="riscv64"), "no system call table for riscv64"),
        ("no way to keep signals in", REQUEST, USER._replace(landlock=4, fresh_proc=False), "keep signals in the jail"),
        (
            "a working directory among outpass's own",
            REQUEST._replace(cwd="/run/user/1000/outpass/run-a"),
            USER,
            "which is hidden",
        ),
        ("a forwarded port of the gate's proxy", REQUEST._replace(forward=(80, 3128)), USER, "--forward 3128: the gate listens"),
        ("of its transparent listener", REQUEST._replace(forward=(61999,)), USER, "--forward 61999: the gate listens"),
        ("of its nameserver", REQUEST._replace(forward=(53,)), USER, "--forward 53: the gate listens"),
        ("a socket of outpass's own", REQUEST._replace(allow_unix=(DOOR.mint,)), USER, "would open what the jail hides"),
        ("a directory around it", REQUEST._replace(allow_unix=("/run/user/1000",)), USER, "would open what the jail hides"),
        ("all of /run", REQUEST._replace(allow_unix=("/run",)), USER, "would open what the jail hides"),
        ("everything", REQUEST._replace(allow_unix=("/",)), USER, "would open what the jail hides"),
    ],
)
def test_refusals(sentence: str, request_: JailRequest, host: Host, says: str) -> None:
    with pytest.raises(StartError) as refused:
        recipe.check(request_, host)
    assert says in refused.value.message and refused.value.hint, sentence


def test_every_step_says_one_plain_line() -> None:
    request = REQUEST._replace(
        read_only=True, allow_userns=True, keep_fds=(5,), forward=(80,), policies=("/srv/app/outpass.yaml",)
    )
    for step in (*recipe.enter(request, ROOT), *recipe.walls(request, ROOT, DOOR)):
        line = step.say()
        assert line and "\n" not in line and not line.endswith(".") and line[0] == line[0].lower()
