"""How to reach and convince the API server: the only module that imports the Kubernetes client.

In a pod the service account's files count, elsewhere the kubeconfig. What is found becomes a
`Connection`; `api_client` and kopf make their requests over the one bounded connector built from it.
No request is made here.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from kubernetes.client import Configuration
from kubernetes.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)

from finetune_operator.errors import SettingsError

CONNECTION_LIMIT = 160
"""Open connections at most: 64 workers, the watches of several namespaces and kopf, with room.
The API server allows 400 requests at once to everybody together by default."""

USER_AGENT = "language-finetune-operator"


@dataclass(frozen=True)
class Connection:
    """Where the API server is, whom it trusts and who we are."""

    server: str
    """Address with scheme and port, without a slash at its end."""
    tls: ssl.SSLContext | bool
    authorization: Callable[[], str | None]
    """Returns the present Authorization header; a rotated token is read again within a minute."""
    namespace: str | None = None
    """Namespace of the kubeconfig's context."""


def load_connection() -> Connection:
    """Return the connection of the pod's service account, or else of the kubeconfig.

    Raises:
        SettingsError: there is neither.
    """
    configuration = Configuration()
    namespace = None
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        namespace = _load_kubeconfig(configuration)
    return Connection(
        server=configuration.host.rstrip("/"),
        tls=_tls(configuration),
        authorization=lambda: configuration.get_api_key_with_prefix(
            "BearerToken", alias="authorization"
        ),
        namespace=namespace,
    )


def _load_kubeconfig(configuration: Configuration) -> str | None:
    try:
        load_kube_config(client_configuration=configuration)
        _, active = list_kube_config_contexts()
    except ConfigException as error:
        raise SettingsError(
            f"The operator finds no cluster: it is not in a pod, and the kubeconfig says: {str(error).rstrip('.')}. "
            "Run it in a pod with a service account, or set KUBECONFIG."
        ) from error
    namespace = active["context"].get("namespace")
    return namespace if isinstance(namespace, str) else None


def _tls(configuration: Configuration) -> ssl.SSLContext | bool:
    if not configuration.host.startswith("https:"):
        return False
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def open_connector(connection: Connection) -> aiohttp.TCPConnector:
    """Return the one pool of connections; the caller closes it."""
    return aiohttp.TCPConnector(limit=CONNECTION_LIMIT, ssl=connection.tls, keepalive_timeout=60)


def open_session(connection: Connection, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """Return a session over the pool. Closing it leaves the pool open, so kopf may close its own."""

    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if (header := connection.authorization()) is not None:
            request.headers["Authorization"] = header
        return await handler(request)

    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=False,
        middlewares=(authorize,),
        # Compressing a page of a list costs both ends more than it saves within a cluster.
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    )
