"""Further down the ranks, and well known: brokers, search, payment, mail, models; with a virtualenv of their own.

Lives here: smoke calls. May not live here: servers, assertions. A call is written into a program of its own, so it imports for itself.
"""

from __future__ import annotations

from tests.top60.answers import CHARGE, FEED, GENERATED, GRAPH, INFO, MESSAGES, PACKAGE, SEARCH, TWEET, WSDL
from tests.top60.smoke import smoke

HELLO = "/hello"


@smoke("google-genai", 145, "generates content", answers={"/v1/models/m:generateContent": GENERATED}, says="forty-two")
def google_genai_(host):
    from google import genai

    client = genai.Client(api_key="k", http_options={"base_url": f"https://{host}"})
    return client.models.generate_content(model="m", contents="what?").text


@smoke(
    "weaviate-client",
    255,
    "asks for its version (the fake knows no more)",
    answers={"/v1/meta": {"version": "1.30.0"}},
    says="1.30.0",
)
def weaviate_(host):
    import weaviate
    from weaviate.config import AdditionalConfig, Timeout

    client = weaviate.connect_to_custom(
        http_host=host, http_port=443, http_secure=True, grpc_host=host, grpc_port=50051, grpc_secure=True, skip_init_checks=True,
        additional_config=AdditionalConfig(timeout=Timeout(init=5)),
    )  # fmt: skip
    return client.get_meta()["version"]


@smoke("databricks-sdk", 294, "who am I", answers={"/api/2.0/preview/scim/v2/Me": {"userName": "u42"}}, says="u42")
def databricks_sdk_(host):
    from databricks.sdk import WorkspaceClient

    return WorkspaceClient(host=f"https://{host}", token="t").current_user.me().user_name


@smoke("dulwich", 334, "ls-remote", answers={"/repo.git/info/refs": INFO}, says="refs/heads/main")
def dulwich_(host):
    from dulwich import porcelain

    return porcelain.ls_remote(f"https://{host}/repo.git").refs


@smoke("langsmith", 335, "reads a project", answers={"/info": {"version": "42.0"}}, says="42.0")
def langsmith_(host):
    import langsmith

    return langsmith.Client(api_url=f"https://{host}", api_key="k").info.version


@smoke("datadog", 416, "sends an event", answers={"/api/v1/events": {"status": "ok", "event": {"id": 42}}}, says="ok")
def datadog_(host):
    import datadog

    datadog.initialize(api_key="k", app_key="k", api_host=f"https://{host}", mute=False)
    return datadog.api.Event.create(title="t", text="x")["status"]


@smoke("smart-open", 428, "reads a file over HTTPS", says=HELLO, needs=("smart-open[http]",))
def smart_open_(host):
    import smart_open

    with smart_open.open(f"https://{host}/hello") as file:
        return file.read()


@smoke(
    "nltk", 457, "fetches its index", answers={"/index.xml": PACKAGE}, says="['p42']",
    note="nltk 3.10 fetches from no address that is not public, and a name in a jail has one of 198.18.0.0/15; nor through a proxy",
)  # fmt: skip
def nltk_(host):
    from nltk.downloader import Downloader

    return [package.id for package in Downloader(f"https://{host}/index.xml", download_dir="nltk").packages()]


@smoke(
    "confluent-kafka",
    485,
    "its first bytes (in C; no broker)",
    charged="unattributed",
    kind="socket",
    server="kafka",
    port=9092,
    says="asked",
)
def confluent_kafka_(host):
    from confluent_kafka.admin import AdminClient

    try:
        return AdminClient({"bootstrap.servers": f"{host}:9092"}).list_topics(timeout=3)
    except Exception:
        return "asked"


@smoke("elasticsearch", 486, "info", answers={"/": SEARCH}, says="42.0")
def elasticsearch_(host):
    from elasticsearch import Elasticsearch

    return Elasticsearch(f"https://{host}:443", max_retries=0).info()["version"]["number"]


@smoke("opensearch-py", 498, "info", answers={"/": {"version": {"number": "42.0", "distribution": "opensearch"}}}, says="42.0")
def opensearch_(host):
    from opensearchpy import OpenSearch

    return OpenSearch(f"https://{host}:443", max_retries=0).info()["version"]["number"]


@smoke(
    "kombu",
    501,
    "publishes to RabbitMQ and reads it",
    charged="amqp",
    family=("kombu",),
    kind="socket",
    server="rabbitmq",
    port=5672,
    says="hello",
)
def kombu_(host):
    import kombu

    with kombu.Connection(f"amqp://guest:guest@{host}:5672//", connect_timeout=10) as connection:
        queue = connection.SimpleQueue("outpass-top60-kombu", queue_opts={"durable": False, "auto_delete": True})
        queue.put("hello")
        message = queue.get(timeout=10)
        message.ack()
        return message.payload


@smoke(
    "celery", 506, "sends a task to RabbitMQ", charged="amqp", family=("kombu", "celery"), kind="socket", server="rabbitmq", port=5672,
    says="sent", needs=("celery",),
)  # fmt: skip
def celery_(host):
    import celery

    app = celery.Celery(broker=f"amqp://guest:guest@{host}:5672//")
    app.conf.update(broker_connection_timeout=5, task_publish_retry=False, task_queues=[], task_create_missing_queues=True)
    import kombu

    queue = kombu.Queue("outpass-top60-celery", durable=False, auto_delete=True, expires=5)
    return f"sent {app.send_task('tasks.add', (40, 2), queue=queue).id}"


@smoke("zeep", 608, "reads a WSDL", answers={"/service.wsdl": WSDL}, says="Answer42")
def zeep_(host):
    import zeep

    return list(zeep.Client(f"https://{host}/service.wsdl").wsdl.services)


@smoke("stripe", 725, "a charge", answers={"/v1/charges/ch_42": CHARGE}, says="succeeded")
def stripe_(host):
    import stripe

    return (
        stripe.StripeClient("sk_test", base_addresses={"api": f"https://{host}"}, max_network_retries=0)
        .v1.charges.retrieve("ch_42")
        .status
    )


@smoke("twine", 729, "uploads a distribution", says="uploaded")
def twine_(host):
    import subprocess
    import sys
    import zipfile

    with zipfile.ZipFile("tiny-1.0-py3-none-any.whl", "w") as made:
        made.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        made.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr("tiny-1.0.dist-info/RECORD", "")
    command = [sys.executable, "-m", "twine", "upload", "--non-interactive", "-u", "u", "-p", "p"]
    done = subprocess.run(
        [*command, "--repository-url", f"https://{host}/legacy/", made.filename], capture_output=True, text=True
    )
    return "uploaded" if done.returncode == 0 else done.stdout[-200:] + done.stderr[-200:]


@smoke("hvac", 760, "reads a secret", answers={"/v1/secret/data/s": {"data": {"data": {"k": "s42"}, "metadata": {}}}}, says="s42")
def hvac_(host):
    import hvac

    return hvac.Client(f"https://{host}", token="t").secrets.kv.v2.read_secret_version("s", raise_on_deleted_version=True)[
        "data"
    ]["data"]["k"]


@smoke("sendgrid", 800, "sends a mail", says="200")
def sendgrid_(host):
    import sendgrid

    return sendgrid.SendGridAPIClient("k", host=f"https://{host}").send({"personalizations": []}).status_code


@smoke("kafka-python", 864, "its first bytes (no broker)", kind="socket", server="kafka2", port=9092, says="asked")
def kafka_python_(host):
    import kafka
    import kafka.errors

    try:
        return kafka.KafkaProducer(bootstrap_servers=f"{host}:9092", bootstrap_timeout_ms=2000)
    except kafka.errors.KafkaError as failed:
        return f"asked: {failed}"


@smoke("jira", 899, "an issue", answers={"/rest/api/2/issue/J-42": {"id": "42", "key": "J-42", "fields": {}}}, says="J-42")
def jira_(host):
    import jira

    return jira.JIRA(f"https://{host}", get_server_info=False, max_retries=0).issue("J-42").key


@smoke("gql", 943, "a query", answers={"/graphql": GRAPH}, says="42", needs=("gql[requests]",))
def gql_(host):
    import gql
    from gql.transport.requests import RequestsHTTPTransport

    return gql.Client(transport=RequestsHTTPTransport(f"https://{host}/graphql")).execute(gql.gql("{ answer }"))


@smoke("pika", 1257, "publishes to RabbitMQ and reads it", kind="socket", server="rabbitmq", port=5672, says="hello")
def pika_(host):
    import pika

    login = pika.PlainCredentials("guest", "guest")
    with pika.BlockingConnection(pika.ConnectionParameters(host, 5672, credentials=login, socket_timeout=10)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"hello")
        return channel.basic_get(queue, auto_ack=True)[2]


@smoke("paho-mqtt", 1720, "publishes to Mosquitto and is told", kind="socket", server="mosquitto", port=1883, says="hello")
def paho_(host):
    import queue

    import paho.mqtt.client as mqtt

    got = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_subscribe = lambda *_: client.publish("outpass/top60", "hello", qos=1)
    client.on_message = lambda _client, _data, message: got.put(message.payload)
    client.connect(host, 1883)
    client.loop_start()
    client.subscribe("outpass/top60")
    return got.get(timeout=10)


@smoke("nats-py", 2292, "publishes and is told", kind="socket", server="nats", port=4222, says="hello")
def nats_(host):
    import asyncio

    import nats

    async def main():
        # Else it tries for ever, whatever the error is.
        client = await asyncio.wait_for(nats.connect(f"nats://{host}:4222"), 5)
        told = await client.subscribe("outpass.top60")
        await client.publish("outpass.top60", b"hello")
        return (await told.next_msg(5)).data

    return asyncio.run(main())


@smoke("twilio", 968, "sends a message", answers={"/2010-04-01/Accounts/AC42/Messages.json": MESSAGES}, says="SM42")
def twilio_(host):
    from twilio.rest import Client

    client = Client("AC42", "t")
    client.api.base_url = f"https://{host}"
    return client.messages.create(to="+1", from_="+2", body="x").sid


@smoke("feedparser", 1097, "reads a feed", answers={"/feed": FEED}, says="e42")
def feedparser_(host):
    import feedparser

    found = feedparser.parse(f"https://{host}/feed")
    if not found.entries:
        raise OSError(f"{found.get('status')} {found.get('bozo_exception')}")
    return found.entries[0].title


@smoke("tweepy", 2360, "a tweet", answers={"/1.1/statuses/show.json": TWEET}, says="t42")
def tweepy_(host):
    import tweepy

    return tweepy.API(tweepy.OAuth2BearerHandler("t"), host=host).get_status(42).text


@smoke("influxdb-client", 1382, "writes a point", says="written")
def influxdb_(host):
    from influxdb_client import InfluxDBClient
    from influxdb_client.client.write_api import SYNCHRONOUS

    with InfluxDBClient(f"https://{host}", token="t", org="o", retries=False) as client:
        client.write_api(SYNCHRONOUS).write("b", record="m f=42")
        return "written"


@smoke("pusher", 2783, "triggers an event", answers={"/apps/42/events": {}}, says="{}")
def pusher_(host):
    import pusher

    return pusher.Pusher("42", "k", "s", host=host, ssl=True).trigger("c", "e", {"k": "v"})


@smoke("clickhouse-connect", 853, "a query (the fake knows no more)", says="arrived")
def clickhouse_(host):
    import clickhouse_connect

    try:
        clickhouse_connect.get_client(
            host=host, port=443, secure=True, username="u", password="p", connect_timeout=5, query_retries=0
        )
    except Exception as failed:
        if "403" in str(failed) or "may not" in str(failed):
            raise
        return f"arrived: {failed}"
