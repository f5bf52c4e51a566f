"""The demo's S3: buckets, model and corpus go up, the adapter comes down."""

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

BUCKETS = ("models", "corpora", "adapters")
MODEL_PREFIX = "smollm2-135m-instruct"
CORPUS_KEY = "swahili/udhr.jsonl"
MARK = ".made-by-the-demo"
"""Object in each bucket that the demo made: a bucket without it is somebody else's and stays."""


@dataclass(frozen=True)
class Endpoint:
    """Where S3 is and who may write there."""

    url: str
    """As this machine reaches it."""
    pod_url: str
    """As pods reach it."""
    access_key: str
    secret_key: str
    region: str

    def secret_data(self) -> dict[str, str]:
        """Return the keys of the Secret that the resource refers to."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL_S3": self.pod_url,
        }


def build_client(endpoint: Endpoint) -> Any:
    """Return a boto3 client of the endpoint."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint.url,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        region_name=endpoint.region,
    )


def upload_materials(endpoint: Endpoint, *, model: Path, corpus: Path) -> None:
    """Make the buckets and upload model and corpus; what is there with its size is left alone."""
    client = build_client(endpoint)
    for bucket in BUCKETS:
        _ensure_bucket(client, bucket)
    for file in sorted(model.iterdir()):
        _upload(client, file, bucket="models", key=f"{MODEL_PREFIX}/{file.name}")
    _upload(client, corpus, bucket="corpora", key=CORPUS_KEY)


def download_folder(endpoint: Endpoint, *, uri: str, folder: Path) -> list[str]:
    """Download every object below an s3:// uri; return the file names."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/") + "/"
    client = build_client(endpoint)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            name = item["Key"].removeprefix(prefix)
            client.download_file(bucket, item["Key"], str(folder / name))
            names.append(name)
    return names


def remove_objects(endpoint: Endpoint, *, namespace: str) -> None:
    """Delete what the demo put into S3, and the buckets that it made where they are empty then."""
    client = build_client(endpoint)
    places = (("models", MODEL_PREFIX), ("corpora", CORPUS_KEY), ("adapters", f"{namespace}/"))
    for bucket, prefix in places:
        try:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for item in [item for page in pages for item in page.get("Contents", [])]:
                client.delete_object(Bucket=bucket, Key=item["Key"])
            _remove_own_bucket(client, bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchBucket":
                raise


def _remove_own_bucket(client: Any, bucket: str) -> None:
    left = [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    if left == [MARK]:
        client.delete_object(Bucket=bucket, Key=MARK)
        client.delete_bucket(Bucket=bucket)


def _ensure_bucket(client: Any, bucket: str) -> None:
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != HTTPStatus.NOT_FOUND:
            raise
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=MARK)


def _upload(client: Any, file: Path, *, bucket: str, key: str) -> None:
    found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
    if not any(item["Key"] == key and item["Size"] == file.stat().st_size for item in found):
        client.upload_file(str(file), bucket, key)
