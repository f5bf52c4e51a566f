"""The certificate: made once, shared by replicas, renewed in time, served without a restart."""

import base64
import ipaddress
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from finetune_operator.errors import CertificateError
from finetune_operator.progress.certificate import CertificateReloader, FromFiles, SelfManaged
from finetune_operator.progress.x509 import CertificateMaterial, renew
from tests.unit_operator.fake_api import FakeApi, build_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("status.ml.svc",)


def secret(material: CertificateMaterial | None) -> dict[str, object]:
    data = {}
    if material is not None:
        data = {
            "ca.crt": material.ca_crt,
            "ca.key": material.ca_key,
            "tls.crt": material.tls_crt,
            "tls.key": material.tls_key,
        }
    encoded = {name: base64.b64encode(value).decode() for name, value in data.items()}
    return {"metadata": {"name": "c", "resourceVersion": "7"}, "data": encoded}


def source(api: FakeApi, *, now: datetime = NOW) -> SelfManaged:
    return SelfManaged(
        client=api.client(), namespace="ml", secret="c", names=NAMES, now=lambda: now
    )


def test_the_leaf_is_signed_by_the_authority_and_names_the_host() -> None:
    made = renew(None, names=("status.ml.svc", "10.0.0.1"), now=NOW)
    authority = x509.load_pem_x509_certificate(made.ca_crt)
    leaf = x509.load_pem_x509_certificate(made.tls_crt)
    leaf.verify_directly_issued_by(authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        x509.DNSName("status.ml.svc"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
    ]


@pytest.mark.parametrize(
    ("days", "keeps_leaf", "keeps_authority"),
    [(0, True, True), (59, True, True), (61, False, True), (3500, False, False)],
    ids=["fresh", "a month left", "less than a month left", "authority ends soon"],
)
def test_what_ends_soon_is_renewed(days: int, keeps_leaf: bool, keeps_authority: bool) -> None:
    kept = renew(None, names=NAMES, now=NOW)
    renewed = renew(kept, names=NAMES, now=NOW + timedelta(days=days))
    assert (renewed.tls_crt == kept.tls_crt) is keeps_leaf
    assert (renewed.ca_crt == kept.ca_crt) is keeps_authority


def test_another_host_name_gets_another_leaf_of_the_same_authority() -> None:
    kept = renew(None, names=NAMES, now=NOW)
    renewed = renew(kept, names=("other.svc",), now=NOW)
    assert renewed.tls_crt != kept.tls_crt
    assert renewed.ca_crt == kept.ca_crt


def test_an_unreadable_certificate_counts_as_absent() -> None:
    kept = renew(None, names=NAMES, now=NOW)
    renewed = renew(replace(kept, tls_crt=b"garbage"), names=NAMES, now=NOW)
    x509.load_pem_x509_certificate(renewed.tls_crt)


async def test_an_empty_secret_is_filled(api: FakeApi) -> None:
    api.answer(200, secret(None))
    api.answer(200, {})
    material = await source(api).load()
    method, path, body = api.requests[1]
    assert (method, path) == ("PUT", "/api/v1/namespaces/ml/secrets/c")
    assert body == {**secret(None), **secret(material)}


async def test_a_certificate_that_serves_is_only_read(api: FakeApi) -> None:
    kept = renew(None, names=NAMES, now=NOW)
    api.answer(200, secret(kept))
    assert await source(api).load() == kept
    assert [method for method, _, _ in api.requests] == ["GET"]


async def test_the_replica_that_writes_second_takes_what_the_first_wrote(api: FakeApi) -> None:
    first = renew(None, names=NAMES, now=NOW)
    api.answer(200, secret(None))
    api.answer(409, build_status(409, "Conflict"))
    api.answer(200, secret(first))
    assert await source(api).load() == first


async def test_missing_rights_are_told_with_the_remedy(api: FakeApi) -> None:
    api.answer(403, build_status(403, "Forbidden", "no access"))
    with pytest.raises(CertificateError) as caught:
        await source(api).load()
    assert str(caught.value) == (
        "The operator may not keep its certificate in Secret ml/c: no access. Make the Secret, "
        "empty, and allow get and update of it by name, as the chart does, or name a folder in "
        "FINETUNE_CERTIFICATE_DIR."
    )


def write(folder: Path, material: CertificateMaterial) -> None:
    (folder / "tls.crt").write_bytes(material.tls_crt)
    (folder / "tls.key").write_bytes(material.tls_key)
    (folder / "ca.crt").write_bytes(material.ca_crt)


def served_serial(tls: ssl.SSLContext, *, authority: bytes) -> int:
    """Return the serial number of the certificate that a handshake in memory shows."""
    trust = ssl.create_default_context(cadata=authority.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust.wrap_bio(to_client, to_server, server_hostname=NAMES[0])
    server = tls.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


async def test_a_renewed_certificate_is_served_by_the_same_context(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    reported: list[str] = []
    reloader = CertificateReloader(source=FromFiles(tmp_path), on_authority=reported.append)
    first = renew(None, names=NAMES, now=now - timedelta(days=61))
    write(tmp_path, first)
    await reloader.refresh()
    before = served_serial(reloader.tls, authority=first.ca_crt)
    write(tmp_path, renew(first, names=NAMES, now=now))
    await reloader.refresh()
    assert served_serial(reloader.tls, authority=first.ca_crt) != before
    assert reported == [first.ca_crt.decode()]


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    reloader = CertificateReloader(source=FromFiles(tmp_path), on_authority=lambda _: None)
    with pytest.raises(
        CertificateError, match=r"^The certificate folder .* cannot be read: .*tls\.crt"
    ):
        await reloader.refresh()
    assert not reloader.present
