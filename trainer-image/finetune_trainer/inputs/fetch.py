"""Fetch: the base model and each language's files, from S3, a claim or the Hugging Face Hub.

First of the stages. It brings bytes and says what they are, verified; what the rows mean is
validate's business. A file's source travels with it, so that a later message can name the object
and not a path in the pod. Nothing is fetched twice: what an earlier attempt left in the scratch
folder is verified and reused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from finetune_api import wire
from finetune_api.plan import PlannedDataset, PlannedModel
from finetune_text.files.formats import ALLOWED_FORMATS, file_format
from finetune_trainer.errors import DataInvalid, NotFound, PlanInvalid
from finetune_trainer.inputs import hub
from finetune_trainer.inputs.data_files import (
    DataFile,
    FetchedDataset,
    FileCensus,
    FileRole,
    HubLayout,
    NamedFile,
    decide_data_files,
    decide_split_files,
    hash_contents,
)
from finetune_trainer.inputs.model_files import INDEX, decide_missing_shards, decide_model_files
from finetune_trainer.inputs.volume_claims import ClaimFolder, find_in_claim
from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.credentials import Credentials, load_credentials
from finetune_trainer.storage.disk_errors import translate_os_errors
from finetune_trainer.storage.s3 import S3Store, connect
from finetune_trainer.storage.s3_location import S3Location, parse_s3_uri
from finetune_trainer.storage.s3_objects import StoredObject
from finetune_trainer.storage.s3_transfer import download, hash_file

__all__ = ["FetchedDataset", "FetchedModel", "Surroundings", "fetch_dataset", "fetch_model"]

PARALLEL_FILES = 4
"""Files under way at once: enough to fill the network from a store of many spindles."""
ALLOWED_SCHEMES = "s3://bucket/prefix, pvc://claim/path or hf://"


@dataclass(frozen=True)
class Surroundings:
    """What the pod gives: environment, mounted claims, patience."""

    environ: Mapping[str, str] = field(repr=False)
    claims: Path = Path(wire.CLAIM_DIR)

    backoff: Backoff = field(default_factory=Backoff)

    @property
    def owns_claims(self) -> bool:
        """Whether the claims are folders of the user of this machine, and no volumes of a cluster."""
        return wire.ENV_CLAIM_DIR in self.environ


@dataclass(frozen=True)
class FetchedModel:
    """The base model on the disk."""

    path: Path
    public_id: str
    """What a published adapter names as its base: `org/name`, or the URI; never a local path."""
    revision: str
    """The Hub's commit, or the SHA-256 over names and contents of the files; empty where neither is
    known, because weights were left where they are."""


# --- The model ----------------------------------------------------------------------------------


Wanted = Callable[[str], bool]
"""Whether a file of a model is fetched, by its name."""


def is_any(name: str) -> bool:
    """Want every file."""
    return bool(name)


def is_no_weight(name: str) -> bool:
    """Want what is needed to count tokens."""
    return not name.endswith(".safetensors")


def fetch_model(
    model: PlannedModel,
    folder: Path,
    *,
    surroundings: Surroundings,
    is_wanted: Wanted = is_any,
) -> FetchedModel:
    """Bring the base model below `folder`, or find it in a mounted claim.

    Args:
        model: The model of the plan.
        folder: Where its files go.
        surroundings: What the pod gives.
        is_wanted: Of its files, which ones are fetched; that all are there is seen in any case.

    Raises:
        NotFound: It does not exist, or a file that it needs does not.
        DataInvalid: Its weights are no safetensors.
        AccessDenied: Credentials are refused, or the repository is gated.
    """
    copy = surroundings.environ.get(wire.ENV_LOCAL_MODEL, "")
    credentials = load_credentials(model.credentials, environ=surroundings.environ)
    with translate_os_errors(folder, uri=model.uri):
        if copy:
            return _read_local_copy(model, Path(copy), is_wanted=is_wanted)
        match _scheme(model.uri, what="model"):
            case "hf":
                name = model.uri.removeprefix("hf://").strip("/")
                repository = _repository(name, "model", credentials, surroundings)
                return _fetch_hub_model(model, folder, repository, is_wanted=is_wanted)
            case "s3":
                store = connect(credentials, subject="the model", backoff=surroundings.backoff)
                return _fetch_s3_model(model, folder, store, is_wanted=is_wanted)
            case _:
                return _find_claim_model(model, folder, surroundings, is_wanted=is_wanted)


def _fetch_hub_model(
    model: PlannedModel, folder: Path, repository: hub.HubRepository, *, is_wanted: Wanted
) -> FetchedModel:
    snapshot = hub.describe(repository, revision=model.revision)
    names = decide_model_files(
        [file.name for file in snapshot.files],
        source=model.uri,
        trust_remote_code=model.trust_remote_code,
    )
    wanted = [name for name in names if is_wanted(name)]
    hub.fetch_files(repository, snapshot, names=wanted, folder=folder)
    _check_shards(folder, names, source=model.uri)
    return FetchedModel(path=folder, public_id=repository.name, revision=snapshot.commit)


def _fetch_s3_model(
    model: PlannedModel, folder: Path, store: S3Store, *, is_wanted: Wanted
) -> FetchedModel:
    prefix = parse_s3_uri(model.uri.rstrip("/") + "/")
    there = {_relative(stored, prefix): stored for stored in store.list(prefix) if stored.size}
    names = decide_model_files(
        tuple(there), source=model.uri, trust_remote_code=model.trust_remote_code
    )
    wanted = [name for name in names if is_wanted(name)]
    files = _download_all(store, [there[name] for name in wanted], prefix=prefix, folder=folder)
    _check_shards(folder, names, source=model.uri)
    revision = _hash_model(names, dict(zip(wanted, (file.sha256 for file in files), strict=True)))
    return FetchedModel(path=folder, public_id=model.uri.rstrip("/"), revision=revision)


def _find_claim_model(
    model: PlannedModel, folder: Path, surroundings: Surroundings, *, is_wanted: Wanted
) -> FetchedModel:
    """Bring the model's files from its claim: those that make a model, and no other."""
    claim = find_in_claim(
        model.uri, what="model", claims=surroundings.claims, is_own=surroundings.owns_claims
    )
    if not claim.path.is_dir():
        raise NotFound(
            f"The model at {model.uri} is a file: expected a folder with config.json; correct the"
            " URI and apply again.",
            reason="ModelFileMissing",
        )
    names = decide_model_files(
        [file.name for file in claim.path.iterdir() if file.is_file()],
        source=model.uri,
        trust_remote_code=model.trust_remote_code,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        _take_from_claim(claim, name, folder)
    return _read_model_folder(model, folder, public_id=model.uri.rstrip("/"), is_wanted=is_wanted)


def _take_from_claim(claim: ClaimFolder, name: str, folder: Path) -> None:
    """Link weights, which are large and never published; copy everything else."""
    target = folder / name
    target.unlink(missing_ok=True)
    if is_no_weight(name):
        claim.copy(claim.path / name, target)
    else:
        target.symlink_to(claim.find_real(claim.path / name))


def _read_local_copy(model: PlannedModel, path: Path, *, is_wanted: Wanted) -> FetchedModel:
    """Read the copy of the model that the user of a workstation names; nothing is downloaded."""
    public_id = model.uri.removeprefix("hf://").strip("/")
    return _read_model_folder(model, path, public_id=public_id, is_wanted=is_wanted)


def _read_model_folder(
    model: PlannedModel, path: Path, *, public_id: str, is_wanted: Wanted
) -> FetchedModel:
    names = decide_model_files(
        [file.name for file in path.iterdir() if file.is_file()],
        source=model.uri,
        trust_remote_code=model.trust_remote_code,
    )
    _check_shards(path, names, source=model.uri)
    wanted = [name for name in names if is_wanted(name)]
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        digests = pool.map(hash_file, [path / name for name in wanted])
        found = dict(zip(wanted, digests, strict=True))
    return FetchedModel(path=path, public_id=public_id, revision=_hash_model(names, found))


def _hash_model(names: Sequence[str], digests: Mapping[str, str]) -> str:
    """Return the hash over all files; empty where one was not read."""
    return hash_contents(digests.items()) if len(digests) == len(names) else ""


def _check_shards(folder: Path, names: Sequence[str], *, source: str) -> None:
    if INDEX not in names:
        return
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except ValueError:
        index = None
    decide_missing_shards(names, index, source=source)


# --- A dataset ----------------------------------------------------------------------------------


def fetch_dataset(
    dataset: PlannedDataset, folder: Path, *, surroundings: Surroundings
) -> FetchedDataset:
    """Bring the files of one language, its own held-out part included, below `folder`.

    Raises:
        NotFound: There is no such dataset, or no file of it holds data.
        DataInvalid: The file has not the checksum that the resource gives.
        AccessDenied: Credentials are refused, or the repository is gated.
    """
    credentials = load_credentials(dataset.credentials, environ=surroundings.environ)
    source = _Source(dataset=dataset, credentials=credentials, surroundings=surroundings)
    with translate_os_errors(folder, uri=dataset.uri):
        found = source.fetch(dataset.uri, folder / "train", splits=(dataset.split,))
        train = found.files
        _check_sha256(dataset, train)
        validation: tuple[DataFile, ...] = ()
        if dataset.validation.uri is not None:
            held_out = folder / "validation"
            splits = decide_held_out_splits(dataset)
            validation = source.fetch(dataset.validation.uri, held_out, splits=splits).files
    return build_fetched(found, validation)


def build_fetched(found: "FoundFiles", validation: tuple[DataFile, ...]) -> FetchedDataset:
    """Return the files of one language; what is held out is not trained on too."""
    held_out = {file.source for file in validation}
    train = tuple(file for file in found.files if file.source not in held_out)
    if not train:
        # The same file is named for both parts; the overlap of its rows is reported.
        train = found.files
    root = found.root
    names = {source.removeprefix(root).lstrip("/") for source in held_out}
    census = found.census.with_role(names, FileRole.VALIDATION)
    return FetchedDataset(
        train=train,
        validation=validation,
        revision=found.revision,
        census=census if train is not found.files else found.census,
        root=root,
    )


@dataclass(frozen=True)
class FoundFiles:
    """The files of one URI on the disk."""

    files: tuple[DataFile, ...]
    census: FileCensus = field(default_factory=FileCensus)
    root: str = ""
    """URI that the names in the census are relative to."""
    revision: str = ""
    """The Hub's commit, if there is one."""


def decide_held_out_splits(dataset: PlannedDataset) -> tuple[str, ...]:
    """Return the splits of the Hub that may be the held-out part, best first.

    A dataset of its own may hold nothing but `train`; in the training data's own it never is.
    """
    own = ("validation", "test")
    return own if dataset.validation.uri == dataset.uri else (*own, "train")


@dataclass(frozen=True)
class _Source:
    """One dataset's way in; its held-out part has the same credentials."""

    dataset: PlannedDataset
    credentials: Credentials
    surroundings: Surroundings

    def fetch(self, uri: str, folder: Path, *, splits: Sequence[str]) -> FoundFiles:
        """Fetch the data files of one URI."""
        match _scheme(uri, what=f"dataset of {self.dataset.tag}"):
            case "hf":
                return self._fetch_hub(uri, folder, splits=splits)
            case "s3":
                return self._fetch_s3(uri, folder, splits=splits)
            case _:
                return self._find_claim(uri, splits=splits)

    def _fetch_hub(self, uri: str, folder: Path, *, splits: Sequence[str]) -> FoundFiles:
        name, subfolder = _parse_hub_dataset(uri)
        repository = _repository(name, "dataset", self.credentials, self.surroundings)
        snapshot = hub.describe(repository, revision=None)
        census = decide_split_files(
            HubLayout(
                files=tuple(NamedFile(file.name, file.size) for file in snapshot.files),
                configs=snapshot.configs,
            ),
            folder=subfolder,
            splits=splits,
            source=uri,
            tag=self.dataset.tag,
        )
        names = census.read
        paths = hub.fetch_files(repository, snapshot, names=names, folder=folder)
        files = (
            _measure(path, source=f"{repository.uri}/{name}")
            for path, name in zip(paths, names, strict=True)
        )
        return FoundFiles(tuple(files), census, root=repository.uri, revision=snapshot.commit)

    def _fetch_s3(self, uri: str, folder: Path, *, splits: Sequence[str]) -> FoundFiles:
        store = connect(
            self.credentials,
            subject=f"the dataset of {self.dataset.tag}",
            backoff=self.surroundings.backoff,
        )
        location = parse_s3_uri(uri)
        is_prefix = not location.key or location.key.endswith("/")
        single = None if is_prefix else store.head(location)
        if single is not None and single.size:
            _check_readable_format(uri, tag=self.dataset.tag)
            parent = S3Location(location.bucket, location.key.rpartition("/")[0])
            return FoundFiles(_download_all(store, [single], prefix=parent, folder=folder))
        prefix = location if is_prefix else S3Location(location.bucket, f"{location.key}/")
        there = {_relative(stored, prefix): stored for stored in store.list(prefix)}
        listed = [NamedFile(name, stored.size) for name, stored in there.items()]
        census = decide_data_files(listed, source=uri, tag=self.dataset.tag, splits=splits)
        wanted = [there[name] for name in census.read]
        files = _download_all(store, wanted, prefix=prefix, folder=folder)
        return FoundFiles(files, census, root=prefix.uri)

    def _find_claim(self, uri: str, *, splits: Sequence[str]) -> FoundFiles:
        claim = find_in_claim(
            uri,
            what=f"dataset of {self.dataset.tag}",
            claims=self.surroundings.claims,
            is_own=self.surroundings.owns_claims,
        )
        path = claim.path
        if path.is_file():
            _check_readable_format(uri, tag=self.dataset.tag)
            return FoundFiles((_measure(path, source=uri),))
        inside = claim.list()
        listed = [NamedFile(str(file.relative_to(path)), file.stat().st_size) for file in inside]
        census = decide_data_files(listed, source=uri, tag=self.dataset.tag, splits=splits)
        root = uri.rstrip("/")
        files = tuple(_measure(path / name, source=f"{root}/{name}") for name in census.read)
        return FoundFiles(files, census, root=root)


def _check_readable_format(uri: str, *, tag: str) -> None:
    if file_format(uri) is None:
        raise DataInvalid(
            f"The dataset of {tag} at {uri} has an unknown format: expected a name ending in"
            f" {ALLOWED_FORMATS}; rename or convert the file and apply again.",
            reason="UnknownFileFormat",
        )


def _check_sha256(dataset: PlannedDataset, files: Sequence[DataFile]) -> None:
    if dataset.sha256 is None:
        return
    found = files[0].sha256 if len(files) == 1 else f"{len(files)} files"
    if found != dataset.sha256:
        raise DataInvalid(
            f"The dataset of {dataset.tag} at {dataset.uri} is not the one that dataset.sha256"
            f" names: expected {dataset.sha256}, found {found}; correct the checksum or the URI and"
            " apply again.",
            reason="ChecksumMismatch",
        )


# --- Shared -------------------------------------------------------------------------------------


def _scheme(uri: str, *, what: str) -> str:
    scheme = uri.partition("://")[0]
    if scheme not in ("hf", "s3", "pvc"):
        raise PlanInvalid(
            f"The URI {uri!r} of the {what} cannot be fetched: expected {ALLOWED_SCHEMES}; correct"
            " it and apply again.",
            reason="UriInvalid",
        )
    return scheme


def _repository(
    name: str, kind: str, credentials: Credentials, surroundings: Surroundings
) -> hub.HubRepository:
    endpoint = surroundings.environ.get("HF_ENDPOINT") or hub.DEFAULT_ENDPOINT
    return hub.HubRepository(
        name=name,
        kind=kind,
        endpoint=endpoint.rstrip("/"),
        token=credentials.hf_token,
        backoff=surroundings.backoff,
    )


def _parse_hub_dataset(uri: str) -> tuple[str, str]:
    """Return the repository and what follows it: a configuration or folder, or nothing."""
    head, _, rest = uri.removeprefix("hf://").strip("/").partition("/")
    parts = rest.split("/")
    if head != "datasets" or not parts[0]:
        raise PlanInvalid(
            f"The URI {uri!r} names no dataset: expected hf://datasets/org/name; correct it and"
            " apply again.",
            reason="UriInvalid",
        )
    return "/".join(parts[:2]), "/".join(parts[2:])


def _relative(stored: StoredObject, prefix: S3Location) -> str:
    return stored.location.key.removeprefix(prefix.key).lstrip("/")


def _download_all(
    store: S3Store, stored: Sequence[StoredObject], *, prefix: S3Location, folder: Path
) -> tuple[DataFile, ...]:
    """Download a few at once, in the given order."""

    def fetch(each: StoredObject) -> DataFile:
        target = folder / _safe_name(_relative(each, prefix), uri=each.location.uri)
        file = download(store, each.location, target)
        return DataFile(path=file.path, source=file.source, sha256=file.sha256, size=file.size)

    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        return tuple(pool.map(fetch, stored))


def _safe_name(name: str, *, uri: str) -> str:
    # A key may hold what a path must not.
    if ".." in PurePosixPath(name).parts:
        raise DataInvalid(
            f"The key of {uri} holds '..', which no file name may; rename the object and apply"
            " again.",
            reason="UnsafeName",
        )
    return name


def _measure(path: Path, *, source: str) -> DataFile:
    return DataFile(path=path, source=source, sha256=hash_file(path), size=path.stat().st_size)
