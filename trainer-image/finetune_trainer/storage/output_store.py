"""The store that `output.uri` names: S3, or a folder of this machine in a run without a cluster."""

from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.folder_store import FolderStore
from finetune_trainer.storage.object_store import ObjectStore
from finetune_trainer.storage.s3 import connect
from finetune_trainer.storage.s3_location import FILE_SCHEME, S3Location, parse_s3_uri

SUBJECT = "the output"


def connect_output_store(
    uri: str, credentials: Credentials, *, backoff: Backoff | None = None
) -> tuple[ObjectStore, S3Location]:
    """Return the store of an `output.uri` and the location that the URI names in it.

    Raises:
        PlanInvalid: The URI is neither s3:// nor file:///.
    """
    root = parse_s3_uri(uri)
    if uri.startswith(FILE_SCHEME):
        return FolderStore(SUBJECT, backoff or Backoff()), root
    return connect(credentials, subject=SUBJECT, backoff=backoff), root
