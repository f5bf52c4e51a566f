"""Every name that two processes agree on: group, labels, mounts, environment, exit codes.

Operator and trainer meet only here and in the models beside it. Nothing else in the project spells
one of these names out. This module imports nothing of ours and computes nothing.
"""

from enum import IntEnum
from typing import Final

# --- The resource -------------------------------------------------------------------------------

GROUP: Final = "langops.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "LanguageFinetune"
PLURAL: Final = "languagefinetunes"
SHORT_NAME: Final = "lft"

FIELD_MANAGER: Final = "language-finetune-controller"
"""Server-side apply owner of everything in status but progress."""
PROGRESS_FIELD_MANAGER: Final = "language-finetune-progress"
"""Server-side apply owner of `status.progress`."""

# --- Labels and annotations ---------------------------------------------------------------------

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_FINETUNE: Final = f"{GROUP}/finetune"
"""Name of the resource, cut to 63 characters with a hash; the full name stands in the annotation."""
LABEL_RUN: Final = f"{GROUP}/run"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
LABEL_ROLE: Final = f"{GROUP}/role"
ANNOTATION_FINETUNE: Final = f"{GROUP}/finetune"
"""The full, uncut name of the resource (up to 253 characters)."""
ANNOTATION_PLAN_HASH: Final = f"{GROUP}/plan-hash"
ANNOTATION_SAFE_TO_PREEMPT: Final = f"{GROUP}/safe-to-preempt"
"""On the Job: a kill without notice loses what was trained since this moment; `never`: all of it."""
ANNOTATION_HELD: Final = f"{GROUP}/suspended-by-spec"
"""On a Job that this operator suspended: only what it suspended itself does it resume."""
APP_NAME: Final = "language-finetune"
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Kueue's label on the Job; the name is Kueue's."""

ROLE_TRAIN: Final = "train"
ROLE_MEASURE: Final = "measure"
ROLE_PROBE: Final = "probe"
"""Looks for finished work before a GPU is asked for."""
ROLE_MERGE: Final = "merge"

# --- Inside the training pod --------------------------------------------------------------------

TRAINER_CONTAINER: Final = "trainer"
PLAN_VOLUME: Final = "plan"
RESOURCE_GPU: Final = "nvidia.com/gpu"
LABEL_GPU_PRODUCT: Final = "nvidia.com/gpu.product"
"""NVIDIA's label on nodes: which GPU they have."""
PLAN_DIR: Final = "/etc/finetune"
PLAN_FILE: Final = "plan.json"
PLAN_PATH: Final = f"{PLAN_DIR}/{PLAN_FILE}"
MEASURE_FILE: Final = "measure.json"
"""The measure plan, in the ConfigMap of a Measure Job."""
MEASURE_PATH: Final = f"{PLAN_DIR}/{MEASURE_FILE}"
MEASURE_COMMAND: Final = ("measure",)
"""Arguments of the trainer's container that make it measure instead of train."""
PROBE_COMMAND: Final = ("probe",)
"""The same, that make it look for finished work of the plan and end."""
PUBLISH_COMMAND: Final = ("publish",)
"""The same, that make it publish what the newest checkpoint holds: the run's deadline is over."""
CA_FILE: Final = "ca.crt"
CA_PATH: Final = f"{PLAN_DIR}/{CA_FILE}"
WORK_DIR: Final = "/work"
TMP_DIR: Final = "/tmp"
SHARED_MEMORY_DIR: Final = "/dev/shm"
"""Where the ranks of a training on several GPUs share buffers (NCCL)."""
TOKEN_DIR: Final = "/var/run/secrets/finetune"
TOKEN_FILE: Final = "token"
TOKEN_PATH: Final = f"{TOKEN_DIR}/{TOKEN_FILE}"
TERMINATION_PATH: Final = "/dev/termination-log"
TERMINATION_LIMIT_BYTES: Final = 4096
"""What the kubelet keeps of a termination message."""
CLAIM_DIR: Final = "/claims"
"""A PersistentVolumeClaim named `c` is mounted read-only at `/claims/c`."""
# The names of Kubeflow Trainer's progress protocol: a stock `transformers` in any image reports too.
ENV_SERVER_URL: Final = "KUBEFLOW_TRAINER_SERVER_URL"
ENV_SERVER_CA: Final = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
ENV_SERVER_TOKEN: Final = "KUBEFLOW_TRAINER_SERVER_TOKEN"
ENV_GRACE_SECONDS: Final = "FINETUNE_GRACE_SECONDS"
"""The pod's terminationGracePeriodSeconds: from SIGTERM on a step, a checkpoint and its upload have as long."""
ENV_DEADLINE_SECONDS: Final = "FINETUNE_DEADLINE_SECONDS"
"""The run's deadline, where a run that reaches it publishes its best: what such a run published then counts."""
ENV_ATTEMPT: Final = "FINETUNE_ATTEMPT"
ENV_PLAN_SHA256: Final = "FINETUNE_PLAN_SHA256"
"""SHA-256 of the bytes of plan.json, so that a replaced ConfigMap is noticed."""
ENV_POD_UID: Final = "FINETUNE_POD_UID"
ENV_IMAGE: Final = "FINETUNE_IMAGE"
"""The image reference of this pod, for the manifest."""
# Places of a trainer that runs outside a pod, in tests and on a workstation.
ENV_PLAN_PATH: Final = "FINETUNE_PLAN_PATH"
"""The plan instead of `PLAN_PATH`."""
ENV_WORK_DIR: Final = "FINETUNE_WORK_DIR"
"""Scratch space instead of `WORK_DIR`."""
ENV_CLAIM_DIR: Final = "FINETUNE_CLAIM_DIR"
"""The folder whose subfolders are the claims, instead of `CLAIM_DIR`; on a workstation alone, where links in it
may lead anywhere."""
ENV_LOCAL_MODEL: Final = "FINETUNE_LOCAL_MODEL"
"""A folder with a copy of the base model, which is read instead of the plan's URI."""
ENV_TERMINATION_PATH: Final = "FINETUNE_TERMINATION_PATH"
"""Where the outcome goes instead of `TERMINATION_PATH`."""
PROGRESS_BODY_LIMIT_BYTES: Final = 64 * 1024


def token_audience(uid: str, run: int) -> str:
    """Return the audience of the only token that a training pod holds: one resource, one run."""
    return f"{APP_NAME}/{uid}/{run}"


def progress_path(namespace: str, name: str, run: int) -> str:
    """Return the path on the status server to which the pods of one run post their progress."""
    return f"/namespaces/{namespace}/{PLURAL}/{name}/runs/{run}/progress"


CREDENTIAL_KEYS: Final = (
    "HF_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL_S3",
)
"""The keys read from a referenced Secret; every other key is ignored."""

CREDENTIALS_BEGIN: Final = "FINETUNE_"
"""Every such prefix begins so."""
CREDENTIALS_MODEL: Final = "MODEL"
CREDENTIALS_OUTPUT: Final = "OUTPUT"
CREDENTIALS_HUB: Final = "HUB"


def credentials_dataset(index: int) -> str:
    """Return the credentials use of the dataset of `languages[index]`."""
    return f"DATASET_{index}"


def credentials_prefix(use: str) -> str:
    """Return the prefix of environment names under which a Secret's keys reach the trainer.

    Each use of a Secret (model, output, each dataset, hub) has a prefix of its own, so two places
    with different credentials never meet: `FINETUNE_OUTPUT_AWS_ACCESS_KEY_ID`. Environment, not a
    volume: the kubelet names a missing Secret in the pod's status only for environment.
    """
    return f"{CREDENTIALS_BEGIN}{use}_"


# --- The published folder -----------------------------------------------------------------------

MANIFEST_FILE: Final = "manifest.json"
POINTER_FILE: Final = "latest.json"
ADAPTER_FILE: Final = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE: Final = "adapter_config.json"


def run_prefix(namespace: str, name: str, run: int, plan_hash: str) -> str:
    """Return `<namespace>/<name>/runs/<run>-<planhash8>`, the folder of one run below `output.uri`."""
    return f"{namespace}/{name}/runs/{run}-{plan_hash[:8]}"


def cut_short_folder(run_folder: str, step: int) -> str:
    """Return the folder of a run that its deadline ended after `step` steps, beside that of a whole run."""
    return f"{run_folder}-step-{step}"


def checkpoints_prefix(namespace: str, name: str, plan_hash: str) -> str:
    """Return the folder below `output.uri` that holds the checkpoints of one plan, whatever the run.

    Each is a folder `step-<N>` below it, and only one with a manifest.json is whole.
    """
    return f"{namespace}/{name}/checkpoints/{plan_hash[:8]}"


PROFILE_FILE: Final = "profile.json"


def measured_prefix(namespace: str, name: str, measure_hash: str) -> str:
    """Return the folder below `output.uri` that holds the profile.json of one measure plan."""
    return f"{namespace}/{name}/profiles/{measure_hash[:8]}"


def profile_cache_key(namespace: str, key: str) -> str:
    """Return where one language's profile is cached below `output.uri`, for the whole namespace.

    `key` is a hash over text and tokenizer. No resource can be called `_profiles`.
    """
    return f"{namespace}/_profiles/{key}.json"


# --- How a training pod ends --------------------------------------------------------------------


class ExitCode(IntEnum):
    """Exit codes of the trainer, after sysexits.h where one fits. A code alone is never success."""

    DONE = 0
    """Finished, or found finished."""
    PLAN_INVALID = 64
    DATA_INVALID = 65
    NOT_FOUND = 66
    """Model or data do not exist."""
    OUT_OF_GPU_MEMORY = 67
    """Even the smallest micro-batch does not fit."""
    NOT_FINITE = 68
    """Loss or gradient became NaN or infinite."""
    SERVICE_UNAVAILABLE = 69
    """S3 or a hub did not answer; another attempt may succeed."""
    BUG = 70
    OUTPUT_UNWRITABLE = 73
    INTERRUPTED = 75
    """Stopped after a checkpoint; the next attempt resumes."""
    ACCESS_DENIED = 77
    """Credentials refused before the first step."""
    ENVIRONMENT_UNFIT = 78
    """No GPU, or a wrong library."""


USELESS_TO_RETRY: Final = (64, 65, 66, 67, 68, 73, 77, 78)
"""Exit codes that fail the Job at once: the next attempt would meet the same end."""
