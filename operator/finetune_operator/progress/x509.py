"""Making certificates: an authority for ten years, a leaf for ninety days.

Pure but for the randomness of the keys; `certificate` reads, stores and serves what is made here.
"""

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_api import wire

CA_LIFE = timedelta(days=3650)
CA_RENEW_BEFORE = timedelta(days=180)
"""A new authority unknown to running pods ends their reports; no run takes half a year."""
LEAF_LIFE = timedelta(days=90)
LEAF_RENEW_BEFORE = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)
"""A node's clock may be this far behind and still accept a new certificate."""


@dataclass(frozen=True)
class CertificateMaterial:
    """PEM: an authority and the leaf that it signed. A given certificate comes without `ca_key`."""

    ca_crt: bytes
    ca_key: bytes
    tls_crt: bytes
    tls_key: bytes


def renew(
    kept: CertificateMaterial | None, *, names: tuple[str, ...], now: datetime
) -> CertificateMaterial:
    """Return `kept` itself while it serves, or what has to take its place.

    Args:
        kept: what is in use; unreadable parts count as absent.
        names: host names and addresses that the leaf must cover.
        now: the present time.
    """
    authority = _read(kept.ca_crt) if kept is not None else None
    if kept is None or authority is None or not _lasts(authority, now + CA_RENEW_BEFORE):
        ca_crt, ca_key = _make_authority(now)
        return _with_leaf(ca_crt, ca_key, names=names, now=now)
    leaf = _read(kept.tls_crt)
    if leaf is not None and _lasts(leaf, now + LEAF_RENEW_BEFORE) and _covers(leaf, names):
        return kept
    return _with_leaf(kept.ca_crt, kept.ca_key, names=names, now=now)


def _read(pem: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        return None


def _lasts(certificate: x509.Certificate, until: datetime) -> bool:
    return certificate.not_valid_after_utc > until


def _covers(leaf: x509.Certificate, names: tuple[str, ...]) -> bool:
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(_alternative_names(names)) <= set(found)


def _alternative_names(names: tuple[str, ...]) -> list[x509.GeneralName]:
    return [_alternative_name(name) for name in names]


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _make_authority(now: datetime) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{wire.APP_NAME}-ca")
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject=name, issuer=name, key=key, now=now, life=CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


def _with_leaf(
    ca_crt: bytes, ca_key: bytes, *, names: tuple[str, ...], now: datetime
) -> CertificateMaterial:
    authority = x509.load_pem_x509_certificate(ca_crt)
    signer = serialization.load_pem_private_key(ca_key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not one that this module made")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(
            subject=_name(names[0][:64]), issuer=authority.subject, key=key, now=now, life=LEAF_LIFE
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(names)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return CertificateMaterial(
        ca_crt=ca_crt, ca_key=ca_key, tls_crt=_pem(certificate), tls_key=_key_pem(key)
    )


def _builder(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
