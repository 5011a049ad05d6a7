"""The SDKs that share a vendor's core (Google, Azure, OpenTelemetry), gRPC, and the warehouses.

Lives here: smoke calls. May not live here: servers, assertions. A call is written into a program of its own, so it imports for itself.
"""

from __future__ import annotations

from tests.top60.answers import BLOBS, DISCOVERY, KEYS, LOGIN
from tests.top60.smoke import smoke

HELLO = "/hello"
TOKEN = {"/token": {"access_token": "t42", "token_type": "Bearer", "expires_in": 3600}}


@smoke("grpcio-status", 24, "reads the details of a failed call", charged="app", server="rpc", says="not your day")
def grpcio_status_(host):
    import grpc
    from grpc_status import rpc_status

    channel = grpc.secure_channel(f"{host}:443", grpc.ssl_channel_credentials())
    try:
        return channel.unary_unary("/status.Now/Fails")(b"", timeout=10)
    except grpc.RpcError as failed:
        status = rpc_status.from_call(failed)
        if status is None:
            raise
        return status.message


@smoke("google-auth", 63, "refreshes a token", charged="app", answers=TOKEN, says="t42", needs=("requests",))
def google_auth_(host):
    from google.auth.transport.requests import Request
    from google.oauth2.credentials import Credentials

    made = Credentials(None, refresh_token="r", token_uri=f"https://{host}/token", client_id="me", client_secret="s")
    made.refresh(Request())
    return made.token


@smoke(
    "google-api-core",
    76,
    "a call over its own channel",
    charged="app",
    server="rpc",
    says="b''",
    needs=("google-api-core[grpc]",),
)
def google_api_core_(host):
    from google.api_core import grpc_helpers
    from google.auth.credentials import AnonymousCredentials

    channel = grpc_helpers.create_channel(f"{host}:443", credentials=AnonymousCredentials())
    return channel.unary_unary("/top60.Api/Core")(b"", timeout=10)


@smoke("grpcio", 84, "a call", charged="app", server="rpc", says="b''")
def grpcio_(host):
    import grpc

    channel = grpc.secure_channel(f"{host}:443", grpc.ssl_channel_credentials())
    return channel.unary_unary("/top60.Grpc/Io")(b"", timeout=10)


@smoke("pyarrow", 90, "lists an S3 bucket (in C++)", charged="unattributed", answers={"/bucket": KEYS}, says="k42")
def pyarrow_(host):
    import os

    from pyarrow import fs

    s3 = fs.S3FileSystem(
        access_key="a", secret_key="b", region="us-east-1", endpoint_override=host, scheme="https",
        tls_ca_file_path=os.environ["SSL_CERT_FILE"], request_timeout=5, connect_timeout=5,
    )  # fmt: skip
    return s3.get_file_info(fs.FileSelector("bucket"))


@smoke("opentelemetry-exporter-otlp-proto-http", 127, "exports a span", says="SUCCESS")
def otlp_http_(host):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider

    span = TracerProvider().get_tracer("t").start_span("s")
    span.end()
    return OTLPSpanExporter(endpoint=f"https://{host}/v1/traces", timeout=5).export([span])


@smoke(
    "google-cloud-storage",
    142,
    "lists buckets",
    answers={"/storage/v1/b": {"items": [{"id": "b42", "name": "b42"}]}},
    says="['b42']",
)
def google_cloud_storage_(host):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client("p", AnonymousCredentials(), client_options={"api_endpoint": f"https://{host}"})
    return [bucket.name for bucket in client.list_buckets(retry=None)]


@smoke("opentelemetry-exporter-otlp-proto-grpc", 152, "exports a span", server="rpc", says="SUCCESS")
def otlp_grpc_(host):
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider

    span = TracerProvider().get_tracer("t").start_span("s")
    span.end()
    return OTLPSpanExporter(endpoint=f"https://{host}:443", timeout=5).export([span])


@smoke("azure-core", 175, "GET by its pipeline", charged="app", says=HELLO)
def azure_core_(host):
    from azure.core import PipelineClient
    from azure.core.rest import HttpRequest

    answer = PipelineClient(f"https://{host}").send_request(HttpRequest("GET", f"https://{host}/hello"))
    answer.raise_for_status()
    return answer.json()["path"]


@smoke("azure-identity", 178, "a client secret's token", family=("msal",), answers=DISCOVERY, says="t42")
def azure_identity_(host):
    from azure.identity import ClientSecretCredential

    made = ClientSecretCredential(
        "tenant", "me", "s", authority=f"https://{host}", disable_instance_discovery=True, retry_total=0
    )
    return made.get_token("x/.default").token


@smoke("google-cloud-core", 182, "GET by its connection", charged="app", says=HELLO)
def google_cloud_core_(host):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud._http import JSONConnection
    from google.cloud.client import ClientWithProject

    client = ClientWithProject("p", AnonymousCredentials())
    client.SCOPE = None
    connection = JSONConnection(client)
    connection.API_BASE_URL, connection.API_VERSION, connection.API_URL_TEMPLATE = f"https://{host}", "v1", "{api_base_url}{path}"
    return connection.api_request("GET", "/hello")


@smoke("google-resumable-media", 198, "downloads", charged="app", says=HELLO, needs=("google-resumable-media[requests]",))
def google_resumable_media_(host):
    import requests
    from google.resumable_media.requests import Download

    return Download(f"https://{host}/hello").consume(requests.Session()).content


@smoke("snowflake-connector-python", 206, "logs in (its core is Rust)", charged="unattributed", answers=LOGIN, says="t42")
def snowflake_(host):
    import snowflake.connector

    db = snowflake.connector.connect(
        account="a", user="u", password="p", host=host, port=443, protocol="https", login_timeout=10, network_timeout=10,
        session_parameters={"CLIENT_TELEMETRY_ENABLED": False}, disable_ocsp_checks=True,
    )  # fmt: skip
    return db.rest.token


@smoke(
    "google-api-python-client", 215, "builds an API from its discovery and calls it",
    answers={"/hello": {"said": "d42"}}, says="d42",
)  # fmt: skip
def google_api_python_client_(host):
    import json

    import httplib2
    from googleapiclient.discovery import build_from_document

    hello = {"id": "t.hello", "path": "hello", "httpMethod": "GET", "parameters": {}, "response": {"$ref": "Hello"}}
    said = {"name": "t", "version": "v1", "rootUrl": f"https://{host}/", "servicePath": "", "methods": {"hello": hello}}
    said["schemas"] = {"Hello": {"id": "Hello", "type": "object", "properties": {}}}
    return build_from_document(json.dumps(said), http=httplib2.Http()).hello().execute()["said"]


@smoke("databricks-sql-connector", 220, "asks for a session (the fake speaks no Thrift)", says="arrived")
def databricks_sql_(host):
    from databricks import sql

    try:
        sql.connect(
            server_hostname=host, http_path="/sql", access_token="t", _retry_stop_after_attempts_count=1, _socket_timeout=5
        )
    except Exception as failed:
        if "403" in str(failed) or "may not" in str(failed):
            raise
        return f"arrived: {type(failed).__name__}"


@smoke("google-cloud-aiplatform", 227, "lists models", server="rpc", says="[]")
def google_cloud_aiplatform_(host):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1 import ModelServiceClient

    client = ModelServiceClient(credentials=AnonymousCredentials(), client_options={"api_endpoint": f"{host}:443"})
    return list(client.list_models(parent="projects/p/locations/l", timeout=10, retry=None))


@smoke("google-auth-oauthlib", 231, "fetches a token for a code", answers=TOKEN, says="t42")
def google_auth_oauthlib_(host):
    from google_auth_oauthlib.flow import Flow

    said = {"client_id": "me", "client_secret": "s", "auth_uri": f"https://{host}/auth", "token_uri": f"https://{host}/token"}
    return Flow.from_client_config({"web": said}, ["x"], redirect_uri="https://me.example.com").fetch_token(code="c")[
        "access_token"
    ]


@smoke("google-auth-httplib2", 233, "GET", charged="app", says="200")
def google_auth_httplib2_(host):
    import google_auth_httplib2
    from google.auth.credentials import AnonymousCredentials

    return google_auth_httplib2.AuthorizedHttp(AnonymousCredentials()).request(f"https://{host}/hello")[0].status


@smoke(
    "google-cloud-bigquery", 235, "lists datasets", says="['d42']",
    answers={"/bigquery/v2/projects/p/datasets": {"datasets": [{"datasetReference": {"projectId": "p", "datasetId": "d42"}}]}},
)  # fmt: skip
def google_cloud_bigquery_(host):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    client = bigquery.Client("p", AnonymousCredentials(), client_options={"api_endpoint": f"https://{host}"})
    return [dataset.dataset_id for dataset in client.list_datasets(retry=None)]


@smoke("google-cloud-secret-manager", 240, "a secret", server="rpc", says="secret: ''")
def google_cloud_secret_manager_(host):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.secretmanager import SecretManagerServiceClient

    client = SecretManagerServiceClient(credentials=AnonymousCredentials(), client_options={"api_endpoint": f"{host}:443"})
    return f"secret: {client.get_secret(name='projects/p/secrets/s', timeout=10, retry=None).name!r}"


@smoke("ydb", 244, "asks for endpoints (the fake knows none)", server="rpc", says="arrived")
def ydb_(host):
    import ydb

    driver = ydb.Driver(endpoint=f"grpcs://{host}:443", database="/local", credentials=ydb.AnonymousCredentials())
    try:
        driver.wait(timeout=5, fail_fast=True)
    except Exception as failed:
        details = driver.discovery_debug_details() + str(failed)
        if "403" in details or "may not" in details or "PERMISSION_DENIED" in details:
            raise
        return f"arrived: {type(failed).__name__} {details}"


@smoke("azure-storage-blob", 269, "lists containers", answers={"/": BLOBS}, says="['b42']")
def azure_storage_blob_(host):
    from azure.storage.blob import BlobServiceClient

    return [found.name for found in BlobServiceClient(f"https://{host}", retry_total=0).list_containers()]


@smoke(
    "gcsfs", 288, "lists a bucket", family=("gcsfs", "fsspec"), also=("google-cloud-storage-control",),
    answers={"/storage/v1/b/bucket/o": {"items": [{"name": "k42", "bucket": "bucket", "size": "1"}]}}, says="k42",
)  # fmt: skip
def gcsfs_(host):
    import gcsfs

    return gcsfs.GCSFileSystem(project="p", token="anon", endpoint_url=f"https://{host}").ls("bucket")


@smoke("google-cloud-pubsub", 314, "a topic", server="rpc", says="topic: ''")
def google_cloud_pubsub_(host):
    from google.auth.credentials import AnonymousCredentials
    from google.pubsub_v1 import PublisherClient

    client = PublisherClient(credentials=AnonymousCredentials(), client_options={"api_endpoint": f"{host}:443"})
    return f"topic: {client.get_topic(topic='projects/p/topics/t', timeout=10, retry=None).name!r}"


@smoke("msrest", 342, "GET by a ServiceClient", charged="app", says=HELLO)
def msrest_(host):
    from msrest import Configuration, ServiceClient

    with ServiceClient(None, Configuration(f"https://{host}")) as client:
        answer = client.send(client.get("/hello"))
        answer.raise_for_status()
        return answer.text
