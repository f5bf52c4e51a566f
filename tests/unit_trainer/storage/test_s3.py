"""S3 as the trainer uses it, on a real SeaweedFS and with the faults that real stores have."""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune_trainer.errors import (
    AccessDenied,
    DataInvalid,
    NotFound,
    OutputUnwritable,
    PlanInvalid,
    ServiceUnavailable,
)
from finetune_trainer.storage import s3_transfer
from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.credentials import Credentials, load_credentials
from finetune_trainer.storage.s3 import CHUNK_BYTES, connect
from finetune_trainer.storage.s3_location import S3Location, parse_s3_uri
from finetune_trainer.storage.s3_transfer import download, find_stored, measure_file, upload
from tests.unit_trainer.conftest import (
    Bucket,
    build_credentials,
    make_bucket,
    quick_backoff,
)
from tests.unit_trainer.s3_proxy import Behaviour, S3Proxy
from tests.unit_trainer.seaweed import READER_KEY, SECRET_KEY, SeaweedFS

# On a real SeaweedFS: seconds of starting and stopping.
pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20


def make_file(folder: Path, size: int, name: str = "weights.safetensors") -> Path:
    path = folder / name
    path.write_bytes(bytes(range(251)) * (size // 251 + 1))
    with path.open("r+b") as file:
        file.truncate(size)
    return path


# --- Plain use


def test_what_is_uploaded_is_listed_read_and_described(bucket: Bucket, tmp_path: Path) -> None:
    path = make_file(tmp_path, 1000)
    upload(bucket.store, path, bucket.at("run/weights.safetensors"))
    (listed,) = bucket.store.list(bucket.at("run/"))
    described = bucket.store.head(bucket.at("run/weights.safetensors"))
    assert listed.size == 1000
    assert described is not None
    assert described.sha256 == measure_file(path).sha256
    assert bucket.store.read(described.location) == (path.read_bytes(), described.etag)


def test_a_large_file_goes_in_parts_and_comes_back_whole(bucket: Bucket, tmp_path: Path) -> None:
    path = make_file(tmp_path, s3_transfer.SINGLE_PUT_BYTES + 5)
    sent = upload(bucket.store, path, bucket.at("big"))
    back = download(bucket.store, bucket.at("big"), tmp_path / "back")
    assert (sent.sha256, sent.size) == (back.sha256, back.size)


def test_a_list_of_many_objects_is_read_in_pages(bucket: Bucket) -> None:
    for number in range(7):
        bucket.put(f"data/{number}", b"x")
    client = bucket.store._client
    client.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=3)
    )
    keys = [stored.location.key for stored in bucket.store.list(bucket.at("data/"))]
    assert keys == [f"data/{number}" for number in range(7)]


def test_an_absent_object_is_no_error_to_head_read_and_delete(bucket: Bucket) -> None:
    gone = bucket.at("gone")
    bucket.store.delete([gone])
    assert bucket.store.head(gone) is None
    assert bucket.store.read(gone) is None


def test_the_write_check_leaves_nothing(bucket: Bucket) -> None:
    bucket.store.check_writable(bucket.at("adapters"))
    assert list(bucket.store.list(bucket.at(""))) == []
    uploads = bucket.store._client.list_multipart_uploads(Bucket=bucket.name)
    assert uploads.get("Uploads", []) == []


# --- Conditional writes


def test_a_pointer_is_written_once_and_replaced_only_over_its_own_version(bucket: Bucket) -> None:
    pointer = bucket.at("latest.json")
    first = bucket.store.put_if(pointer, b"1", etag=None)
    assert first is not None
    assert bucket.store.put_if(pointer, b"2", etag=None) is None
    second = bucket.store.put_if(pointer, b"2", etag=first)
    assert second is not None
    assert bucket.store.put_if(pointer, b"3", etag=first) is None
    assert bucket.store.read(pointer) == (b"2", second)


def test_a_conditional_write_whose_answer_was_lost_counts_as_ours(
    proxied: Bucket, proxy: S3Proxy
) -> None:
    proxy.behaviour = Behaviour(lose_answer=1)
    etag = proxied.store.put_if(proxied.at("latest.json"), b"mine", etag=None)
    assert proxied.store.read(proxied.at("latest.json")) == (b"mine", etag)


def test_a_store_without_conditional_writes_is_asked_first(proxied: Bucket, proxy: S3Proxy) -> None:
    proxy.behaviour = Behaviour(no_conditions=True)
    first = proxied.store.put_if(proxied.at("latest.json"), b"1", etag=None)
    assert proxied.store.put_if(proxied.at("latest.json"), b"2", etag=None) is None
    assert proxied.store.put_if(proxied.at("latest.json"), b"2", etag=first) is not None


# --- Downloads that break


def test_a_download_that_breaks_goes_on_where_it_was(
    proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    data = make_file(tmp_path, 5 * MEBIBYTE).read_bytes()
    proxied.put("weights", data)
    proxy.behaviour = Behaviour(cut_after=[2 * MEBIBYTE])
    back = download(proxied.store, proxied.at("weights"), tmp_path / "back")
    assert back.path.read_bytes() == data
    assert ("GET", f"bytes={2 * MEBIBYTE}-") in proxy.behaviour.seen


def test_a_store_that_ignores_ranges_gives_the_same_file(
    proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    data = make_file(tmp_path, 3 * MEBIBYTE).read_bytes()
    proxied.put("weights", data)
    proxy.behaviour = Behaviour(cut_after=[1_500_000], ignore_range=True)
    assert download(proxied.store, proxied.at("weights"), tmp_path / "b").path.read_bytes() == data
    assert [method for method, _ in proxy.behaviour.seen].count("GET") == 2


def test_a_part_of_another_version_is_thrown_away(
    proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    proxied.put("weights", b"old" * MEBIBYTE)
    new = b"new" * MEBIBYTE

    def replace_object() -> None:
        proxied.put("weights", new)

    proxy.behaviour = Behaviour(cut_after=[MEBIBYTE], on_cut=replace_object)
    assert download(proxied.store, proxied.at("weights"), tmp_path / "b").path.read_bytes() == new


def test_a_complete_download_is_verified_and_not_fetched_again(
    proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    proxied.put("weights", b"x" * 1000)
    download(proxied.store, proxied.at("weights"), tmp_path / "back")
    proxy.behaviour = Behaviour()
    download(proxied.store, proxied.at("weights"), tmp_path / "back")
    assert {method for method, _ in proxy.behaviour.seen} == {"HEAD"}


def test_a_file_that_rotted_on_the_disk_is_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("weights", b"x" * 1000)
    back = download(bucket.store, bucket.at("weights"), tmp_path / "back")
    back.path.write_bytes(b"y" * 1000)
    again = download(bucket.store, bucket.at("weights"), tmp_path / "back")
    assert again.path.read_bytes() == b"x" * 1000


def test_bytes_that_differ_from_the_noted_sha256_are_refused(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.store.put(bucket.at("weights"), b"x", metadata={"sha256": "0" * 64})
    with pytest.raises(DataInvalid) as error:
        download(bucket.store, bucket.at("weights"), tmp_path / "back")
    assert error.value.reason == "ChecksumMismatch"
    assert error.value.message == (
        f"s3://{bucket.name}/weights does not have the checksum that the store gives for it (found"
        " 2d711642b726…); upload the file again and apply again."
    )


def test_an_etag_that_is_no_md5_is_believed_when_two_copies_agree(
    bucket: Bucket, tmp_path: Path
) -> None:
    stored = bucket.store.head(bucket.put("weights", b"x"))
    assert stored is not None
    digests = measure_file(make_file(tmp_path, 1, "one"))
    assert not s3_transfer.is_verified(replace(stored, etag="f" * 32), digests)
    assert s3_transfer.is_verified(replace(stored, etag="f" * 32, is_encrypted=True), digests)
    assert s3_transfer.is_verified(replace(stored, etag="f" * 32 + "-2"), digests)


@pytest.mark.slow
def test_a_download_survives_a_killed_server(tmp_path: Path) -> None:
    server = SeaweedFS(tmp_path / "server")
    server.folder.mkdir()
    server.start()
    proxy = S3Proxy(server.endpoint)
    try:
        data = make_file(tmp_path, 6 * MEBIBYTE).read_bytes()
        direct = make_bucket(server.endpoint)
        direct.put("weights", data)

        def restart() -> None:
            server.kill()
            server.start()

        proxy.behaviour = Behaviour(cut_after=[3 * MEBIBYTE], on_cut=restart)
        # A server that was killed answers 500 for a while, until its volumes are found again.
        backoff = Backoff(first_s=0.2, longest_s=1, total_s=60)
        store = connect(build_credentials(proxy.endpoint), subject="the model", backoff=backoff)
        back = download(store, direct.at("weights"), tmp_path / "back")
        assert back.path.read_bytes() == data
    finally:
        proxy.stop()
        server.kill()


# --- Uploads that go wrong


def test_a_busy_store_is_asked_again_after_growing_waits(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    slept: list[float] = []
    backoff = replace(quick_backoff(), sleep=slept.append)
    store = connect(build_credentials(proxy.endpoint), subject="the output", backoff=backoff)
    proxy.behaviour = Behaviour(busy=4, busy_method="PUT")
    upload(store, make_file(tmp_path, 100), bucket.at("weights"))
    assert slept == [0.375, 0.75, 1.5, 3.0]


def test_a_store_that_stays_busy_ends_the_attempt(proxied: Bucket, proxy: S3Proxy) -> None:
    proxy.behaviour = Behaviour(busy=10_000)
    with pytest.raises(ServiceUnavailable) as error:
        proxied.store.put(proxied.at("weights"), b"x")
    assert error.value.message == (
        f"The output at s3://{proxied.name}/weights could not be reached: HTTP 503 SlowDown; the run"
        " is tried again, and if this lasts, check the store and AWS_ENDPOINT_URL_S3."
    )


def test_an_upload_that_the_store_did_not_keep_is_sent_again(
    proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    path = make_file(tmp_path, 100)
    proxied.put("weights", b"earlier")
    proxy.behaviour = Behaviour(forget_uploads=1)
    upload(proxied.store, path, proxied.at("weights"))
    assert proxied.store.read(proxied.at("weights"))[0] == path.read_bytes()  # type: ignore[index]


def test_a_store_that_never_keeps_what_it_gets_is_refused(
    proxied: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    proxied.put("weights", b"earlier")
    proxy.behaviour = Behaviour(forget_uploads=2)
    with pytest.raises(OutputUnwritable) as error:
        upload(proxied.store, make_file(tmp_path, 100), proxied.at("weights"))
    assert error.value.message == (
        f"s3://{proxied.name}/weights differs from what was sent, twice in a row: the store does not"
        " keep what it is given; check the store and its proxies, or choose another output.uri."
    )


def test_a_store_whose_etag_says_nothing_is_read_back(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    path = make_file(tmp_path, 3 * CHUNK_BYTES)
    store = connect(
        build_credentials(proxy.endpoint), subject="the output", backoff=quick_backoff()
    )
    location = bucket.put("weights", path.read_bytes())
    proxy.behaviour = Behaviour(cut_after=[1000])
    digests = replace(measure_file(path), md5="f" * 32)
    assert find_stored(store, location, digests=digests)
    assert find_stored(store, location, digests=replace(digests, sha256="f" * 64)) is None


# --- Refusals


def test_a_missing_bucket_is_told_before_anything_is_written(seaweed: SeaweedFS) -> None:
    store = connect(build_credentials(seaweed.endpoint), subject="the output")
    with pytest.raises(NotFound) as error:
        store.check_writable(S3Location("no-such-bucket", "adapters"))
    assert error.value.reason == "BucketNotFound"
    assert error.value.message == (
        "The output at s3://no-such-bucket/adapters cannot be reached: the bucket 'no-such-bucket'"
        " does not exist at this endpoint; create it, or correct the URI or AWS_ENDPOINT_URL_S3, and"
        " apply again."
    )


def test_a_wrong_secret_is_named_and_not_shown(bucket: Bucket) -> None:
    wrong = replace(build_credentials(bucket.endpoint), secret_access_key="wrong-secret")
    with pytest.raises(AccessDenied) as error:
        connect(wrong, subject="the dataset of sw").check_readable(bucket.at("corpora/"))
    assert error.value.message == (
        f"The dataset of sw at s3://{bucket.name}/corpora/ cannot be listed: the secret key does not"
        " belong to the access key (SignatureDoesNotMatch); correct the AWS_* keys in the Secret and"
        " apply again."
    )


def test_an_unknown_access_key_is_named(bucket: Bucket) -> None:
    unknown = replace(build_credentials(bucket.endpoint), access_key_id="unknown")
    with pytest.raises(AccessDenied) as error:
        connect(unknown, subject="the model").check_readable(bucket.at(""))
    assert error.value.reason == "InvalidAccessKeyId"


def test_keys_that_may_only_read_are_found_out_before_the_first_step(bucket: Bucket) -> None:
    reader = replace(build_credentials(bucket.endpoint), access_key_id=READER_KEY)
    with pytest.raises(AccessDenied) as error:
        connect(reader, subject="the output").check_writable(bucket.at("adapters"))
    assert error.value.message == (
        f"The output at s3://{bucket.name}/adapters/.write-check cannot be written: the store denied"
        " access (AccessDenied); allow these credentials to write it, or name a Secret with keys"
        " that may."
    )


def test_an_endpoint_that_nobody_listens_on_is_unavailable() -> None:
    nowhere = replace(build_credentials("http://127.0.0.1:9"), region="eu-west-1")
    store = connect(nowhere, subject="the output", backoff=quick_backoff(total_s=1))
    with pytest.raises(ServiceUnavailable):
        store.check_readable(S3Location("bucket", ""))


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    # The value is not shown: where the keys of a Secret are mixed up, it holds a credential.
    with pytest.raises(PlanInvalid) as error:
        connect(build_credentials("minio:9000"), subject="the output")
    assert error.value.message == (
        "AWS_ENDPOINT_URL_S3 of the output is no URL: expected http:// or https:// and a host; correct"
        " the Secret and apply again."
    )


@pytest.mark.parametrize("uri", ["s3:/bucket/key", "s3://", "s3://a b/key", "gs://bucket/key"])
def test_a_malformed_uri_is_refused(uri: str) -> None:
    with pytest.raises(PlanInvalid):
        parse_s3_uri(uri)


def test_a_uri_is_bucket_and_key() -> None:
    assert parse_s3_uri("s3://corpora/sw/train.jsonl") == S3Location("corpora", "sw/train.jsonl")
    assert parse_s3_uri("s3://corpora") == S3Location("corpora", "")
    assert S3Location("corpora", "").join("sw").uri == "s3://corpora/sw"


# --- Credentials


def test_each_use_reads_its_own_names_and_cuts_the_newline_of_a_file() -> None:
    environ = {
        "FINETUNE_OUTPUT_AWS_ACCESS_KEY_ID": "a\n",
        "FINETUNE_OUTPUT_AWS_SECRET_ACCESS_KEY": "b",
        "FINETUNE_MODEL_HF_TOKEN": "c",
    }
    output = load_credentials("OUTPUT", environ=environ)
    assert (output.access_key_id, output.secret_access_key, output.hf_token) == ("a", "b", None)
    assert load_credentials(None, environ=environ) == Credentials()


@pytest.mark.parametrize("value", ["hf_a\nb", "hf_ä", "hf_a b", "hf_\u200b"])
def test_what_no_request_can_carry_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(AccessDenied) as error:
        load_credentials("MODEL", environ={"FINETUNE_MODEL_HF_TOKEN": value})
    assert error.value.message == (
        "HF_TOKEN in the Secret for model holds a space, a line end or a letter outside ASCII:"
        " expected the key alone; write it into the Secret again and apply again."
    )


def test_half_a_key_pair_is_refused() -> None:
    with pytest.raises(AccessDenied) as error:
        load_credentials("OUTPUT", environ={"FINETUNE_OUTPUT_AWS_ACCESS_KEY_ID": "a"})
    assert error.value.message == (
        "The Secret for output lacks AWS_SECRET_ACCESS_KEY: an S3 key pair needs AWS_ACCESS_KEY_ID"
        " and AWS_SECRET_ACCESS_KEY; add the key to the Secret and apply again."
    )


def test_credentials_are_not_shown() -> None:
    assert SECRET_KEY not in repr(build_credentials("http://localhost"))
