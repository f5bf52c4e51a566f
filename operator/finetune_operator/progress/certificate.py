"""The status server's certificate: given as files, or made and renewed by the operator itself.

`SelfManaged` keeps a small authority and a leaf in one named Secret of the operator's namespace, the
only Secret it ever touches. Replicas share it by optimistic concurrency: the second writer reads
what the first wrote. `FromFiles` reads what cert-manager or an administrator mounts. Both give
`CertificateMaterial`; `CertificateReloader` puts it into the TLS context in use, which serves it from then on.
"""

import asyncio
import base64
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import structlog

from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.kinds import SECRETS
from finetune_operator.errors import (
    AlreadyExistsError,
    CertificateError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
)
from finetune_operator.progress.x509 import CertificateMaterial, renew
from finetune_operator.raw_object import MutableRawObject

CHECK_S = 300.0
"""Seconds between two looks for a newer certificate; the kubelet updates mounted files in a minute."""
ATTEMPTS = 5
"""Tries to agree with the other replicas; each loss means that somebody else wrote."""

CA_CRT, CA_KEY, TLS_CRT, TLS_KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"


class CertificateSource(Protocol):
    """Where the certificate comes from."""

    async def load(self) -> CertificateMaterial:
        """Return the certificate to serve now."""


@dataclass(frozen=True)
class FromFiles:
    """A certificate that somebody else renews."""

    folder: Path

    async def load(self) -> CertificateMaterial:
        """Read the files.

        Raises:
            CertificateError: one is missing.
        """
        return await asyncio.to_thread(self._read)

    def _read(self) -> CertificateMaterial:
        try:
            chain, key, authority = (
                (self.folder / name).read_bytes() for name in (TLS_CRT, TLS_KEY, CA_CRT)
            )
        except OSError as error:
            raise CertificateError(
                f"The certificate folder {self.folder} cannot be read: {error}. It must hold "
                f"{TLS_CRT}, {TLS_KEY} and {CA_CRT}; mount them, or leave FINETUNE_CERTIFICATE_DIR "
                "empty to let the operator make its own."
            ) from error
        return CertificateMaterial(ca_crt=authority, ca_key=b"", tls_crt=chain, tls_key=key)


@dataclass(frozen=True)
class SelfManaged:
    """A certificate in a Secret that all replicas share."""

    client: ApiClient
    namespace: str
    secret: str
    names: tuple[str, ...]
    """Host names and addresses under which pods reach the server."""
    now: Callable[[], datetime]

    async def load(self) -> CertificateMaterial:
        """Read the Secret, and make or renew what is missing or ends soon.

        Raises:
            CertificateError: the operator may not use the Secret.
            ClusterError: the API server does not answer.
        """
        for _ in range(ATTEMPTS):
            try:
                return await self._agree()
            except (ConflictError, AlreadyExistsError):
                continue  # another replica wrote first: read what it wrote
            except ForbiddenError as error:
                raise CertificateError(
                    f"The operator may not keep its certificate in Secret {self.namespace}/"
                    f"{self.secret}: {error.answer}. Make the Secret, empty, and allow get and "
                    "update of it by name, as the chart does, or name a folder in FINETUNE_CERTIFICATE_DIR."
                ) from error
        raise CertificateError(
            f"Secret {self.namespace}/{self.secret} changed {ATTEMPTS} times while it was read; "
            "something else writes to it. Leave it to the operator."
        )

    async def _agree(self) -> CertificateMaterial:
        try:
            stored = await self.client.get(SECRETS, namespace=self.namespace, name=self.secret)
        except NotFoundError:
            stored = None
        kept = _material(stored) if stored is not None else None
        wanted = renew(kept, names=self.names, now=self.now())
        if wanted is not kept:
            await self._write(stored, wanted)
            structlog.get_logger().info("Made a certificate.", secret=self.secret)
        return wanted

    async def _write(self, stored: MutableRawObject | None, material: CertificateMaterial) -> None:
        if stored is None:
            fresh = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": self.secret, "namespace": self.namespace},
                "type": "Opaque",
                "data": _data(material),
            }
            await self.client.create(SECRETS, namespace=self.namespace, manifest=fresh)
            return
        changed = {**stored, "data": {**(stored.get("data") or {}), **_data(material)}}
        await self.client.replace(
            SECRETS, namespace=self.namespace, name=self.secret, manifest=changed
        )


class CertificateReloader:
    """Serves the newest certificate.

    Args:
        source: gives it.
        on_authority: is called with the certificates that pods must trust, first and at each change.
    """

    def __init__(self, *, source: CertificateSource, on_authority: Callable[[str], None]) -> None:
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """The status server's context. What it serves changes while it is in use."""
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._source = source
        self._on_authority = on_authority
        self._material: CertificateMaterial | None = None

    @property
    def present(self) -> bool:
        """Whether there is a certificate to serve."""
        return self._material is not None

    async def refresh(self) -> None:
        """Load the certificate and serve it from now on.

        Raises:
            CertificateError: there is none.
            ClusterError: the API server does not answer.
        """
        material = await self._source.load()
        if material == self._material:
            return
        await asyncio.to_thread(_load_into, self.tls, material)
        if self._material is None or material.ca_crt != self._material.ca_crt:
            self._on_authority(material.ca_crt.decode())
        self._material = material

    async def run(self) -> None:
        """Refresh for ever; a failure keeps what is served."""
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                await self.refresh()
            except (CertificateError, ClusterError) as error:
                structlog.get_logger().warning("The certificate stays as it is.", error=str(error))


def _load_into(tls: ssl.SSLContext, material: CertificateMaterial) -> None:
    # The ssl module reads certificates from files only; a key never stays on disk.
    with tempfile.TemporaryDirectory(prefix="finetune-certificate-") as folder:
        chain, key = Path(folder) / TLS_CRT, Path(folder) / TLS_KEY
        key.touch(mode=0o600)
        chain.write_bytes(material.tls_crt)
        key.write_bytes(material.tls_key)
        try:
            tls.load_cert_chain(chain, key)
        except ssl.SSLError as error:
            raise CertificateError(
                f"The certificate cannot be used: {error}. {TLS_CRT} and {TLS_KEY} must be PEM and "
                "belong to each other."
            ) from error


def _material(stored: MutableRawObject) -> CertificateMaterial | None:
    data = stored.get("data") or {}
    if not all(data.get(name) for name in (CA_CRT, CA_KEY, TLS_CRT, TLS_KEY)):
        return None
    ca_crt, ca_key, tls_crt, tls_key = (
        base64.b64decode(data[name]) for name in (CA_CRT, CA_KEY, TLS_CRT, TLS_KEY)
    )
    return CertificateMaterial(ca_crt=ca_crt, ca_key=ca_key, tls_crt=tls_crt, tls_key=tls_key)


def _data(material: CertificateMaterial) -> dict[str, str]:
    parts = {
        CA_CRT: material.ca_crt,
        CA_KEY: material.ca_key,
        TLS_CRT: material.tls_crt,
        TLS_KEY: material.tls_key,
    }
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}
