"""SDKs of one vendor each, that bring their own way to ask: AWS, model vendors, and others of the most downloaded.

Lives here: smoke calls. May not live here: servers, assertions. A call is written into a program of its own, so it imports for itself.
"""

from __future__ import annotations

from tests.top60.answers import BUCKETS, CHAT, IDENTITY, INITIALIZED, KEYS, MESSAGE, MODELS, NAMESPACES, OPENID, STORED
from tests.top60.smoke import smoke

HELLO = "/hello"


@smoke("boto3", 1, "a resource lists S3 buckets", charged="botocore", family=("boto3",), answers={"/": BUCKETS}, says="['b42']")
def boto3_(host):
    import boto3

    s3 = boto3.resource(
        "s3", aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1", endpoint_url=f"https://{host}"
    )
    return [bucket.name for bucket in s3.buckets.all()]


@smoke("botocore", 10, "STS get_caller_identity", answers={"/": IDENTITY}, says="arn:aws:iam::42:root")
def botocore_(host):
    import botocore.session

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    return (
        botocore.session.get_session().create_client("sts", endpoint_url=f"https://{host}", **keys).get_caller_identity()["Arn"]
    )


@smoke("aiobotocore", 12, "lists S3 buckets", answers={"/": BUCKETS}, says="['b42']")
def aiobotocore_(host):
    import asyncio

    from aiobotocore.session import get_session

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}

    async def main():
        async with get_session().create_client("s3", endpoint_url=f"https://{host}", **keys) as s3:
            return [bucket["Name"] for bucket in (await s3.list_buckets())["Buckets"]]

    return asyncio.run(main())


@smoke(
    "s3transfer",
    26,
    "uploads a file, in its threads",
    charged="botocore",
    family=("s3transfer",),
    answers={"/bucket/main.py": STORED},
    needs=("boto3",),
    says="uploaded",
)
def s3transfer_(host):
    import boto3
    import s3transfer

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    s3transfer.S3Transfer(boto3.client("s3", endpoint_url=f"https://{host}", **keys)).upload_file(__file__, "bucket", "main.py")
    return "uploaded"


@smoke(
    "s3fs", 39, "lists a bucket", charged="aiobotocore", family=("s3fs", "fsspec"), answers={"/bucket": KEYS}, says="bucket/k42"
)
def s3fs_(host):
    import s3fs

    s3 = s3fs.S3FileSystem(key="a", secret="b", endpoint_url=f"https://{host}", client_kwargs={"region_name": "us-east-1"})
    return s3.ls("bucket")


@smoke("awscli", 91, "s3api list-buckets", answers={"/": BUCKETS}, says="b42")
def awscli_(host):
    import os
    import subprocess
    import sys

    env = {**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "awscli", "s3api", "list-buckets", "--endpoint-url", f"https://{host}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return done.stdout + done.stderr


@smoke("openai", 111, "lists models", answers={"/v1/models": MODELS}, says="['m42']")
def openai_(host):
    import openai

    return [model.id for model in openai.OpenAI(api_key="k", base_url=f"https://{host}/v1", max_retries=0).models.list()]


@smoke("mcp", 124, "a session over streamable HTTP", answers={"/mcp": INITIALIZED}, says="top60")
def mcp_(host):
    import anyio
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def main():
        async with streamable_http_client(f"https://{host}/mcp") as (read, write, *_):
            async with ClientSession(read, write) as session:
                return (await session.initialize()).server_info.name

    return anyio.run(main)


@smoke("huggingface-hub", 136, "model_info", answers={"/api/models/a/b": {"id": "a/b", "siblings": [], "tags": []}}, says="a/b")
def huggingface_hub_(host):
    from huggingface_hub import HfApi

    return HfApi(endpoint=f"https://{host}").model_info("a/b").id


@smoke(
    "pydantic-ai-slim",
    138,
    "an agent asks a model, by openai",
    charged="openai",
    family=("pydantic-ai-slim", "pydantic-graph"),
    answers={"/v1/chat/completions": CHAT},
    says="forty-two",
    needs=("pydantic-ai-slim[openai]",),
)
def pydantic_ai_(host):
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=f"https://{host}/v1", api_key="k"))
    return Agent(model).run_sync("what?").output


@smoke("docker", 158, "asks an engine for its version", answers={"/v1.44/version": {"Version": "42.0"}}, says="42.0")
def docker_(host):
    import docker

    return docker.DockerClient(base_url=f"https://{host}:443", tls=True, version="1.44").version()["Version"]


@smoke("msal", 197, "a client credential's token", answers=OPENID, says="t42")
def msal_(host):
    import msal

    app = msal.ConfidentialClientApplication("me", "secret", f"https://{host}/tenant", instance_discovery=False)
    return app.acquire_token_for_client(["x/.default"])["access_token"]


@smoke("kubernetes", 207, "lists namespaces", answers={"/api/v1/namespaces": NAMESPACES}, says="['n42']")
def kubernetes_(host):
    from kubernetes import client

    made = client.CoreV1Api(client.ApiClient(client.Configuration(host=f"https://{host}")))
    return [item.metadata.name for item in made.list_namespace().items]


@smoke("anthropic", 272, "a message", answers={"/v1/messages": MESSAGE}, says="forty-two")
def anthropic_(host):
    import anthropic

    asked = anthropic.Anthropic(api_key="k", base_url=f"https://{host}", max_retries=0)
    return asked.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "what?"}]).content[0].text


@smoke("sentry-sdk", 281, "an event, from its thread", says="sent")
def sentry_sdk_(host):
    import sentry_sdk

    sentry_sdk.init(f"https://key@{host}/1")
    sentry_sdk.capture_message("hello")
    sentry_sdk.flush(10)
    return "sent"


@smoke("slack-sdk", 328, "api.test", answers={"/api/api.test": {"ok": True, "args": "a42"}}, says="a42")
def slack_sdk_(host):
    import slack_sdk

    return slack_sdk.WebClient(token="x", base_url=f"https://{host}/api/").api_test()["args"]


@smoke("pygithub", 370, "a user", answers={"/users/u42": {"login": "u42", "url": "/users/u42"}}, says="u42")
def pygithub_(host):
    import github

    return github.Github(base_url=f"https://{host}", retry=None).get_user("u42").login
