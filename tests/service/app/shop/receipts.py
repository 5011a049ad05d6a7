"""Receipts, in S3.

Lives here: the bucket. May not live here: what a receipt says.
"""

from __future__ import annotations

import boto3
from botocore.config import Config

from shop import settings

s3 = boto3.client(
    "s3",
    region_name="eu-central-1",
    endpoint_url=settings.S3_ENDPOINT,
    aws_access_key_id="AKIASHOP",
    aws_secret_access_key="shop",
    config=Config(retries={"max_attempts": 1}, max_pool_connections=40),
)


def put(number: int, text: str) -> None:
    """Keeps a receipt."""
    s3.put_object(Bucket=settings.S3_BUCKET, Key=f"receipts/{number}.txt", Body=text.encode())


def get(number: int) -> str:
    """A receipt that was kept."""
    return s3.get_object(Bucket=settings.S3_BUCKET, Key=f"receipts/{number}.txt")["Body"].read().decode()
