"""Before the operator may start: what it tells the decisions, and what an administrator must provide.

`runtime` waits here for the resource definition and the certificate. A process that lacks something
finds the sentence in the log and on /readyz; the process stays, for what is missing may come.
"""

import asyncio
import ipaddress

import structlog

from finetune_api import wire
from finetune_operator.cluster.client import ApiClient
from finetune_operator.decide.values.operator_config import DecisionContext
from finetune_operator.decide.values.pod_policy import PodPolicy
from finetune_operator.errors import CertificateError, ClusterError, NotFoundError
from finetune_operator.progress.certificate import CertificateReloader
from finetune_operator.settings import Settings

RETRY_S = 5.0
"""Seconds between two looks for what an administrator must still provide."""
DISCOVERY_PATH = f"/apis/{wire.API_VERSION}"

MISSING_DEFINITION = (
    f"The CustomResourceDefinition {wire.PLURAL}.{wire.GROUP} ({wire.VERSION}) is not installed; "
    "install the chart with crds.enabled, or kubectl apply -f crds/. The operator waits for it."
)


def build_context(settings: Settings, *, ca_pem: str) -> DecisionContext:
    """Return the administrator's choices as the decisions need them."""
    return DecisionContext(
        trainer_image=settings.trainer_image,
        image_pull_policy=settings.trainer_image_pull_policy,
        image_pull_secrets=settings.trainer_image_pull_secrets,
        status_url=build_status_url(settings.status_service, settings.status_port),
        ca_pem=ca_pem,
        allow_trust_remote_code=settings.allow_trust_remote_code,
        allow_image_override=settings.allow_image_override,
        allowed_service_accounts=frozenset(settings.allowed_service_accounts),
        pods=build_pod_policy(settings),
        default_requests=settings.default_requests,
        default_limits=settings.default_limits,
        measure_requests=settings.measure_requests,
        measure_limits=settings.measure_limits,
        measure_node_selector=settings.measure_node_selector,
        trainer_env=settings.trainer_env,
        probes=settings.probe,
        memory_ceiling=settings.memory_ceiling,
        termination_grace_s=settings.termination_grace_s,
        image_pull_timeout_s=settings.image_pull_timeout_s,
    )


def build_pod_policy(settings: Settings) -> PodPolicy:
    """Return what the settings say about pods."""
    return PodPolicy(
        allowed_priority_classes=settings.allowed_priority_classes,
        allowed_tolerations=settings.allowed_tolerations,
        allowed_node_selectors=settings.allowed_node_selectors,
        allowed_runtime_classes=settings.allowed_runtime_classes,
        allowed_queues=settings.allowed_queues,
        allowed_images=settings.allowed_images,
        allowed_secrets=settings.allowed_secrets,
        allowed_claims=settings.allowed_claims,
        run_as_user=settings.run_as_user,
        run_as_group=settings.run_as_group,
        fs_group=settings.fs_group,
        required_limits=settings.required_limits,
        labels=settings.pod_labels,
        annotations=settings.pod_annotations,
        measure_deadline_s=settings.measure_deadline_s,
        measure_inherits_priority=settings.measure_inherits_priority,
    )


def build_status_url(host: str, port: int) -> str:
    """Return where pods report; an IPv6 address stands in brackets."""
    try:
        is_v6 = ipaddress.ip_address(host).version == 6
    except ValueError:
        is_v6 = False
    return f"https://[{host}]:{port}" if is_v6 else f"https://{host}:{port}"


async def wait_for_definition(client: ApiClient) -> None:
    """Return once the API server serves LanguageFinetunes; kopf would wait for them without a word."""
    while True:
        try:
            found = await client.get_path(DISCOVERY_PATH)
            if wire.PLURAL in {resource["name"] for resource in found["resources"]}:
                return
            structlog.get_logger().warning(MISSING_DEFINITION)
        except NotFoundError:
            structlog.get_logger().warning(MISSING_DEFINITION)
        except ClusterError as error:
            structlog.get_logger().warning("The API server does not answer.", error=str(error))
        await asyncio.sleep(RETRY_S)


async def wait_for_certificate(reloader: CertificateReloader) -> None:
    """Return once there is a certificate to serve."""
    while not reloader.present:
        try:
            await reloader.refresh()
        except (CertificateError, ClusterError) as error:
            structlog.get_logger().warning("There is no certificate yet.", error=str(error))
            await asyncio.sleep(RETRY_S)
