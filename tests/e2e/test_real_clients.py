"""Unmodified scripts with real packages, each against a local HTTPS origin under its real host name.

Each is charged to itself, not to its HTTP library nor to an instrumentation; under another package's grant nothing arrives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.jailed import impossible
from tests.support.origin import Origin
from tests.support.runs import run_script

HOSTS = (
    "api.stripe.com",
    "api.openai.com",
    "slack.com",
    "www.slack.com",
    "status.example.com",
    "evil.example.org",
    "s3.us-east-1.amazonaws.com",
    "bucket.s3.amazonaws.com",
    "bucket.s3.us-east-1.amazonaws.com",
    "o1.ingest.sentry.io",
)
ANSWERS = {
    "/v1/charges/ch_1": {"id": "ch_1", "object": "charge", "status": "succeeded"},
    "/v1/chat/completions": {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    },
    "/api/api.test": {"ok": True},
}


class Client(NamedTuple):
    name: str
    script: str
    host: str
    grants: tuple[str, ...]
    charged: str
    chain: list[str]


CLIENTS = [
    Client(
        "requests",
        'import requests; r = requests.get("https://status.example.com/a?token=secret")\nprint("status", r.status_code)',
        "status.example.com",
        ("app",),
        "app",
        ["app"],
    ),
    Client(
        "urllib3",
        'import os, urllib3; r = urllib3.ProxyManager(os.environ["HTTPS_PROXY"]).request("GET", '
        '"https://status.example.com/a", retries=False)\nprint("status", r.status)',
        "status.example.com",
        ("app",),
        "app",
        ["app"],
    ),
    Client(
        "urllib of the standard library",
        "import urllib.request as u, urllib.error\n"
        'try: print("status", u.urlopen("https://status.example.com/a").status)\n'
        'except urllib.error.HTTPError as e: print("status", e.code)',
        "status.example.com",
        ("app",),
        "app",
        ["app"],
    ),
    Client(
        "httpx over HTTP/1.1",
        'import httpx; r = httpx.get("https://status.example.com/a")\nprint("status", r.status_code, r.http_version)',
        "status.example.com",
        ("app",),
        "app",
        ["app"],
    ),
    Client(
        "httpx over HTTP/2",
        'import httpx\nwith httpx.Client(http2=True) as c:\n    r = c.get("https://status.example.com/a")\n'
        'print("status", r.status_code, r.http_version)\nassert r.http_version == "HTTP/2"',
        "status.example.com",
        ("app",),
        "app",
        ["app"],
    ),
    Client(
        "boto3",
        "import boto3, botocore.exceptions\n"
        's3 = boto3.client("s3", aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")\n'
        'try: print("status", s3.head_object(Bucket="bucket", Key="k")["ResponseMetadata"]["HTTPStatusCode"])\n'
        'except botocore.exceptions.ClientError as e: print("status", e.response["ResponseMetadata"]["HTTPStatusCode"])',
        "bucket.s3.amazonaws.com",
        ("botocore", "boto3"),
        "botocore",
        ["botocore", "app"],
    ),
    Client(
        "stripe",
        'import stripe\nstripe.api_key = "sk_test"\n'
        'try: print("status", 200, stripe.Charge.retrieve("ch_1")["status"])\n'
        'except stripe.StripeError as e: print("status", e.http_status)',
        "api.stripe.com",
        ("stripe",),
        "stripe",
        ["stripe", "app"],
    ),
    Client(
        "openai",
        'import openai\nc = openai.OpenAI(api_key="k", max_retries=0)\n'
        'try: print("status", 200, c.chat.completions.create(model="gpt", messages=[]).choices[0].message.content)\n'
        'except openai.APIStatusError as e: print("status", e.status_code)',
        "api.openai.com",
        ("openai",),
        "openai",
        ["openai", "app"],
    ),
    Client(
        "slack-sdk",
        "import slack_sdk, slack_sdk.errors\n"
        'try: print("status", slack_sdk.WebClient(token="x").api_test().status_code)\n'
        'except slack_sdk.errors.SlackApiError as e: print("status", e.response.status_code)',
        "slack.com",
        ("slack-sdk",),
        "slack-sdk",
        ["slack-sdk", "app"],
    ),
    Client(
        "sentry-sdk",
        'import sentry_sdk\nsentry_sdk.init("https://key@o1.ingest.sentry.io/1", traces_sample_rate=0)\n'
        'sentry_sdk.capture_message("hello")\nsentry_sdk.flush(10)\nprint("status", 200)',
        "o1.ingest.sentry.io",
        ("sentry-sdk",),
        "sentry-sdk",
        ["sentry-sdk", "app"],
    ),
]


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(HOSTS, answers=ANSWERS) as running:
        yield running


def policy(grants: tuple[str, ...], host: str) -> str:
    rules = "\n".join(f'  {g}:\n    allow: [network:http]\n    http: ["https://{host}/**"]' for g in grants)
    return f"version: 1\ninclude: [preset:http-clients, preset:instruments]\npackages:\n{rules}\n"


def names(chain: list[str]) -> list[str]:
    return [entry.partition("@")[0] for entry in chain]


@pytest.mark.parametrize("jail", [False, True], ids=["no-jail", "jail"])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda c: c.name)
def test_with_its_own_grant_it_works_and_is_charged_to_itself(client: Client, jail: bool, origin: Origin, tmp_path: Path) -> None:
    if jail and (why := impossible(os.getuid())):
        pytest.skip(f"no jail is possible here: {why}")
    before = len(origin.seen)
    run = run_script(
        tmp_path,
        client.script,
        *origin.connect_to(),
        "--upstream-ca",
        str(origin.ca_file),
        policy=policy(client.grants, client.host),
        jail=jail,
    )
    assert run.code == 0 and "status 200" in run.out, run.said()
    arrived = origin.wait(before + 1)[before:]
    assert {seen.host.partition(":")[0] for seen in arrived} == {client.host}
    for seen in arrived:
        assert not seen.header("outpass-token") and not seen.header("proxy-authorization")
    decisions = [r for r in run.records if r["kind"] == "decision"]
    assert decisions, run.said()
    for record in decisions:
        assert (record["verdict"], record["reason"], record["principal"]) == ("allow", "allowed", client.charged), run.said()
        assert set(names(record["chain"])) >= set(client.chain), run.said()
        assert record["tier"] == ("enforced" if jail else "attributed"), run.said()
        assert record["override"] is True, "an operator's --connect-to is named in the audit"
        assert "secret" not in str(record)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda c: c.name)
def test_under_another_packages_grant_nothing_arrives(client: Client, origin: Origin, tmp_path: Path) -> None:
    before = len(origin.seen)
    run = run_script(
        tmp_path,
        client.script,
        *origin.connect_to(),
        "--upstream-ca",
        str(origin.ca_file),
        policy=policy(("left-pad",), client.host),
    )
    assert run.code == 0, run.said()
    if client.name != "sentry-sdk":  # it tells nobody what it got
        assert "status 403" in run.out, run.said()
    assert origin.seen[before:] == []
    denied = [r for r in run.records if r["verdict"] == "deny"]
    assert denied, run.said()
    assert {r["reason"] for r in denied} <= {"no_rule", "no_capability"}, run.said()
    assert {r["principal"] for r in denied} <= {client.charged, *client.grants}, run.said()


def test_an_instrumentation_between_a_package_and_its_http_library_is_not_charged(origin: Origin, tmp_path: Path) -> None:
    script = (
        "import sentry_sdk, stripe, requests\n"
        'sentry_sdk.init("https://key@o1.ingest.sentry.io/1", traces_sample_rate=1.0)\n'
        'stripe.api_key = "sk_test"\n'
        'with sentry_sdk.start_transaction(name="t"):\n    print("status", stripe.Charge.retrieve("ch_1")["status"])\n'
    )
    rules = (
        "version: 1\ninclude: [preset:http-clients, preset:instruments]\npackages:\n"
        '  stripe: {allow: [network:http], http: ["https://api.stripe.com/**"]}\n'
        '  sentry-sdk: {allow: [network:http], http: ["https://o1.ingest.sentry.io/**"]}\n'
    )
    run = run_script(tmp_path, script, *origin.connect_to(), "--upstream-ca", str(origin.ca_file), policy=rules)
    assert run.code == 0 and "succeeded" in run.out, run.said()
    charged = {(r["host"], r["principal"]) for r in run.records if r["kind"] == "decision"}
    assert charged == {("api.stripe.com", "stripe"), ("o1.ingest.sentry.io", "sentry-sdk")}, run.said()


def test_threads_asyncio_and_a_pool_in_one_script(origin: Origin, tmp_path: Path) -> None:
    script = (
        "import asyncio, threading, concurrent.futures, stripe, openai, requests, httpx\n"
        'stripe.api_key = "k"\n'
        'def pay(): return stripe.Charge.retrieve("ch_1")["status"]\n'
        "got = []\n"
        "t = [threading.Thread(target=lambda: got.append(pay())) for _ in range(4)]\n"
        "[x.start() for x in t]; [x.join() for x in t]\n"
        "with concurrent.futures.ThreadPoolExecutor(4) as pool: got += pool.map(lambda _: pay(), range(4))\n"
        "async def ask():\n"
        '    c = openai.AsyncOpenAI(api_key="k", max_retries=0)\n'
        '    return (await c.chat.completions.create(model="gpt", messages=[])).choices[0].message.content\n'
        "async def main():\n"
        "    async with httpx.AsyncClient() as c:\n"
        "        a = await asyncio.gather(*(asyncio.create_task(ask()) for _ in range(4)), asyncio.to_thread(pay))\n"
        '        r = await c.get("https://status.example.com/x")\n'
        "        return a + [r.status_code]\n"
        "got += asyncio.run(main())\n"
        'print("got", got)\n'
    )
    rules = (
        "version: 1\ninclude: [preset:http-clients]\npackages:\n"
        '  stripe: {allow: [network:http], http: ["https://api.stripe.com/**"]}\n'
        '  openai: {allow: [network:http], http: ["https://api.openai.com/**"]}\n'
    )
    run = run_script(tmp_path, script, *origin.connect_to(), "--upstream-ca", str(origin.ca_file), policy=rules)
    assert run.code == 0, run.said()
    assert run.out.count("succeeded") == 9 and run.out.count("hello") == 4 and run.out.rstrip().endswith("403]"), run.said()
    charged = [(r["principal"], r["verdict"]) for r in run.records if r["kind"] == "decision"]
    assert charged.count(("stripe", "allow")) == 9, run.said()
    assert charged.count(("openai", "allow")) == 4, run.said()
    assert charged.count(("app", "deny")) == 1, run.said()


def test_a_redirect_to_a_forbidden_host_is_a_new_decision(origin: Origin, tmp_path: Path) -> None:
    before = len(origin.seen)
    script = (
        "import requests\n"
        'r = requests.get("https://status.example.com/redirect?to=https://evil.example.org/steal")\n'
        'print("status", r.status_code, r.url)'
    )
    run = run_script(
        tmp_path,
        script,
        *origin.connect_to(),
        "--upstream-ca",
        str(origin.ca_file),
        policy=policy(("app",), "status.example.com"),
    )
    assert "status 403 https://evil.example.org/steal" in run.out, run.said()
    assert [seen.host for seen in origin.seen[before:]] == ["status.example.com"]
    assert [(r["host"], r["verdict"]) for r in run.records] == [("status.example.com", "allow"), ("evil.example.org", "deny")], (
        run.said()
    )
