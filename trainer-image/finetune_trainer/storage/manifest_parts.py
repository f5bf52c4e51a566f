"""What every manifest in S3 is made of: files with their hashes, datasets as they were read.

Below `publish` and the checkpoints, which each have a manifest of their own and trust nothing that it
does not list.
"""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class ManifestPart(BaseModel):
    """Base of manifests: a later release may have written more than is known here."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )


class ManifestFile(ManifestPart):
    """One stored file."""

    path: str
    """Below the manifest's own folder."""
    sha256: str
    bytes: int
    etag: str = ""
    """What the store called these bytes once they were verified; empty where unknown."""


class ManifestDataset(ManifestPart):
    """The text of one language, as it was read."""

    tag: str
    uri: str
    revision: str = ""
    sha256: str = ""
    """Hash over the contents of all its files."""
