"""The Hugging Face Hub: files of a model or dataset at one commit, verified, with errors of ours.

The only module that imports huggingface_hub. It lies below fetch, which says what to take; the Hub
says what there is (`describe`), and `fetch_files` brings it. No code of a repository is ever run.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from finetune_trainer.errors import (
    AccessDenied,
    DataInvalid,
    NotFound,
    PlanInvalid,
    ServiceUnavailable,
    TrainerError,
)
from finetune_trainer.storage.backoff import Backoff

logger = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
PARALLEL_FILES = 4
"""Files under way at once; the Hub slows clients that ask for many more."""
CHUNK_BYTES = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class HubRepository:
    """One repository, and how to reach it."""

    name: str
    """`org/name`."""
    kind: str
    """`model` or `dataset`."""
    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = None
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def page(self) -> str:
        """The page that a person opens."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    @property
    def uri(self) -> str:
        """The URI as a resource names it."""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


@dataclass(frozen=True)
class HubFile:
    """One file of a repository and what the Hub vouches for."""

    name: str
    size: int
    sha256: str | None
    """Of large files."""
    blob_id: str | None
    """Git's hash of small files."""


@dataclass(frozen=True)
class HubSnapshot:
    """A repository at one commit."""

    commit: str
    files: tuple[HubFile, ...]
    configs: tuple[Mapping[str, object], ...] = ()
    """A dataset card's configurations."""


def describe(repository: HubRepository, *, revision: str | None) -> HubSnapshot:
    """Return the commit that a revision means and the files that are there.

    Raises:
        NotFound: Repository or revision do not exist, or the token may not see them.
        AccessDenied: The repository is gated, or the token is wrong.
        ServiceUnavailable: The Hub did not answer.
    """
    api = HfApi(endpoint=repository.endpoint, token=repository.token)
    info = _ask(
        repository,
        lambda: api.repo_info(
            repository.name, repo_type=repository.kind, revision=revision, files_metadata=True
        ),
        revision=revision,
    )
    card = getattr(info, "card_data", None)
    configs = card.to_dict().get("configs") if card is not None else None
    return HubSnapshot(
        commit=str(info.sha),
        files=tuple(
            HubFile(
                name=sibling.rfilename,
                size=sibling.size or 0,
                sha256=sibling.lfs.sha256 if sibling.lfs else None,
                blob_id=sibling.blob_id,
            )
            for sibling in info.siblings or ()
        ),
        configs=tuple(config for config in configs or () if isinstance(config, Mapping)),
    )


def fetch_files(
    repository: HubRepository, snapshot: HubSnapshot, *, names: Sequence[str], folder: Path
) -> tuple[Path, ...]:
    """Bring the named files below `folder`, reuse what is there and verify every byte.

    Raises:
        DataInvalid: A file's bytes are not what the Hub announced, twice in a row.
    """
    disable_progress_bars()
    wanted = {file.name: file for file in snapshot.files}
    fetch = partial(_fetch_file, repository, snapshot.commit, folder)
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        return tuple(pool.map(fetch, [wanted[name] for name in names]))


def _fetch_file(repository: HubRepository, commit: str, folder: Path, file: HubFile) -> Path:
    for is_again in (False, True):
        path = Path(
            _ask(
                repository,
                partial(
                    hf_hub_download,
                    repository.name,
                    file.name,
                    repo_type=repository.kind,
                    revision=commit,
                    local_dir=folder,
                    endpoint=repository.endpoint,
                    token=repository.token,
                    force_download=is_again,
                ),
                revision=commit,
            )
        )
        if is_as_announced(path, file):
            return path
        logger.warning("A file differed from the Hub's", extra={"file": file.name})
    raise DataInvalid(
        f"{repository.uri}/{file.name} differs from what the Hub announces, twice in a row; check"
        " the network's proxies and apply again.",
        reason="ChecksumMismatch",
    )


def is_as_announced(path: Path, file: HubFile) -> bool:
    """Tell whether a file has the size and the hash that the Hub gives."""
    if not path.exists() or path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return _hash(path, hashlib.sha256()) == file.sha256
    if file.blob_id is not None:
        blob = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
        return _hash(path, blob) == file.blob_id
    return True


def _hash(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# --- Errors -------------------------------------------------------------------------------------


def _ask(repository: HubRepository, operation: Callable[[], T], *, revision: str | None) -> T:
    """Ask the Hub, again and again while the fault may pass, and translate what remains."""
    backoff = repository.backoff.begin()
    while True:
        try:
            return operation()
        except (
            HfHubHTTPError,
            EntryNotFoundError,
            FileMetadataError,
            HFValidationError,
            OfflineModeIsEnabled,
            httpx.HTTPError,
        ) as fault:
            error = _diagnose(fault, repository, revision=revision)
            wait = next(backoff, None) if isinstance(error, ServiceUnavailable) else None
            if wait is None:
                raise error from fault
            logger.info("The Hub is asked again", extra={"uri": repository.uri, "wait_s": wait})
            repository.backoff.sleep(wait)


def _diagnose(fault: Exception, repository: HubRepository, *, revision: str | None) -> TrainerError:
    """Return our error for one of huggingface_hub's; the order is from the narrow to the wide."""
    what = f"The {repository.kind} {repository.uri}"
    if isinstance(fault, GatedRepoError):
        return AccessDenied(
            f"{what} is gated: its terms must be accepted at {repository.page} by the account of"
            " HF_TOKEN; accept them, put that token into the Secret of secretRef and apply again.",
            reason=f"{repository.kind.capitalize()}Gated",
        )
    if isinstance(fault, RevisionNotFoundError):
        return NotFound(
            f"{what} has no revision {revision!r}: expected a branch, tag or commit listed at"
            f" {repository.page}; correct model.revision and apply again.",
            reason="RevisionNotFound",
        )
    if isinstance(fault, RepositoryNotFoundError):
        return _diagnose_missing(repository, what=what)
    if isinstance(fault, HFValidationError):
        return PlanInvalid(
            f"{what} is malformed: expected an organisation and a name, as in hf://org/name; correct"
            " the URI and apply again.",
            reason="UriInvalid",
        )
    if isinstance(fault, HfHubHTTPError):
        return _diagnose_status(fault.response.status_code, repository, what=what)
    if isinstance(fault, LocalEntryNotFoundError) and fault.__cause__ is not None:
        # huggingface_hub wraps what went wrong with the request for a file's metadata.
        return _diagnose_cause(fault.__cause__, repository, revision=revision)
    return _build_unavailable(repository, why=type(fault).__name__)


def _diagnose_cause(
    cause: BaseException, repository: HubRepository, *, revision: str | None
) -> TrainerError:
    if isinstance(cause, HfHubHTTPError):
        return _diagnose(cause, repository, revision=revision)
    return _build_unavailable(repository, why=type(cause).__name__)


def _diagnose_missing(repository: HubRepository, *, what: str) -> TrainerError:
    token = "the token given may not see it" if repository.token else "it is private"
    remedy = "another HF_TOKEN" if repository.token else "an HF_TOKEN"
    return NotFound(
        f"{what} does not exist at {repository.endpoint}, or {token}; correct the URI, or name a"
        f" Secret with {remedy} in secretRef, and apply again.",
        reason=f"{repository.kind.capitalize()}NotFound",
    )


def _diagnose_status(status: int, repository: HubRepository, *, what: str) -> TrainerError:
    if status in (401, 403):
        return AccessDenied(
            f"{what} cannot be read: the Hub refused HF_TOKEN (HTTP {status}); put a valid token"
            " into the Secret of secretRef and apply again.",
            reason="HubTokenRefused",
        )
    if status == 404:
        return NotFound(
            f"{what} lacks a file that its list of files names; apply again.",
            reason="HubFileNotFound",
        )
    if status == 429 or status >= 500:
        return _build_unavailable(repository, why=f"HTTP {status}")
    return PlanInvalid(
        f"{what} cannot be read: {repository.endpoint} answered HTTP {status}; check HF_ENDPOINT and"
        " the URI, and apply again.",
        reason="RequestRefused",
    )


def _build_unavailable(repository: HubRepository, *, why: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"The {repository.kind} {repository.uri} could not be fetched: {repository.endpoint} did not"
        f" answer ({why}); the run is tried again, and if this lasts, check the network policy and"
        " HF_ENDPOINT.",
        reason="HubUnavailable",
    )
