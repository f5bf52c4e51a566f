"""Keys, certificates, tokens and kubeconfigs of the cluster: made once a lab, by openssl.

Every component has a user of its own with the rights that Kubernetes' default roles give it. Users
authenticate with tokens, for a kubeconfig with a token is readable in a test and needs no files beside it.
"""

import base64
import json
import secrets
from pathlib import Path

from tests.cluster.layout import (
    API_PORT,
    API_SERVICE_ADDRESS,
    LOOPBACK,
    NODE_ADDRESS,
    NODE_NAME,
    Layout,
)
from tests.cluster.steps import run

USERS = {
    "admin": ("lab-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
    "coredns": ("system:coredns", ""),
}
"""Kubeconfig name: user name and group."""

API_NAMES = (
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
    f"IP:{LOOPBACK}",
    f"IP:{NODE_ADDRESS}",
    f"IP:{API_SERVICE_ADDRESS}",
)
VALID_DAYS = "365"


def make_credentials(layout: Layout) -> None:
    """Make what is missing of the cluster's keys, tokens and kubeconfigs."""
    done = layout.keys / "done"
    if done.exists():
        return
    layout.keys.mkdir(parents=True, exist_ok=True)
    layout.keys.chmod(0o700)
    _make_service_account_keys(layout.keys)
    _make_authority(layout.keys)
    _sign(layout.keys, name="apiserver", subject="/CN=kube-apiserver", names=API_NAMES)
    _sign(layout.keys, name="kubelet-client", subject="/O=system:masters/CN=kube-apiserver")
    tokens = {user: secrets.token_hex(16) for user in USERS}
    (layout.keys / "tokens.csv").write_text(build_token_file(tokens))
    certificate = (layout.keys / "ca.crt").read_bytes()
    for user, token in tokens.items():
        config = layout.kubeconfig_of(user)
        config.touch(mode=0o600)
        config.write_text(build_kubeconfig(user=user, token=token, certificate=certificate))
    done.touch()


def build_token_file(tokens: dict[str, str]) -> str:
    """Return the API server's token file: token, user, uid, groups."""
    lines = []
    for user, token in tokens.items():
        name, group = USERS[user]
        lines.append(f'{token},{name},{user},"{group}"\n')
    return "".join(lines)


def build_kubeconfig(*, user: str, token: str, certificate: bytes) -> str:
    """Return a kubeconfig as JSON, which every client reads as the YAML it also is."""
    cluster = {
        "server": f"https://{NODE_ADDRESS}:{API_PORT}",
        "certificate-authority-data": base64.b64encode(certificate).decode(),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    }
    return json.dumps(config, indent=2) + "\n"


def _make_service_account_keys(keys: Path) -> None:
    # RSA, as nearly every real cluster signs: what checks tokens by itself meets the usual RS256.
    private, public = keys / "service-accounts.key", keys / "service-accounts.pub"
    run(["openssl", "genpkey", "-algorithm", "RSA", "-out", private])
    run(["openssl", "pkey", "-in", private, "-pubout", "-out", public])


def _make_key(path: Path) -> None:
    # P-256: made in milliseconds, where RSA takes up to a second each
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    run(["openssl", "genpkey", *curve, "-out", path])


def _make_authority(keys: Path) -> None:
    _make_key(keys / "ca.key")
    key, certificate = keys / "ca.key", keys / "ca.crt"
    about = ("-subj", "/CN=lab-ca", "-days", VALID_DAYS)
    run(["openssl", "req", "-x509", "-new", "-key", key, "-out", certificate, *about])


def _sign(keys: Path, *, name: str, subject: str, names: tuple[str, ...] = ()) -> None:
    key, request, certificate = (keys / f"{name}.{kind}" for kind in ("key", "csr", "crt"))
    _make_key(key)
    run(["openssl", "req", "-new", "-key", key, "-subj", subject, "-out", request])
    extensions = keys / f"{name}.ext"
    usage = "extendedKeyUsage=serverAuth,clientAuth\n"
    extensions.write_text(usage + (f"subjectAltName={','.join(names)}\n" if names else ""))
    authority = ("-CA", f"{keys}/ca.crt", "-CAkey", f"{keys}/ca.key", "-CAcreateserial")
    signed = ("-days", VALID_DAYS, "-extfile", str(extensions), "-out", str(certificate))
    run(["openssl", "x509", "-req", "-in", request, *authority, *signed])
