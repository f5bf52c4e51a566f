"""Credentials of one use of a Secret, as the kubelet put them into the environment.

Below `s3` and `hub`, which alone look at the values. A repr shows which keys are there and never
what they are. This module decides nothing and sends no request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_api import wire
from finetune_trainer.errors import AccessDenied


@dataclass(frozen=True)
class Credentials:
    """What one Secret gives; every part is None where the Secret does not hold it."""

    use: str | None = None
    """The use of `wire.credentials_prefix`, or None for the pod's own identity."""
    hf_token: str | None = field(default=None, repr=False)
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    endpoint_url: str | None = None

    @property
    def has_keys(self) -> bool:
        """Whether S3 keys are given; without them the pod's own identity counts."""
        return self.access_key_id is not None


def load_credentials(use: str | None, *, environ: Mapping[str, str]) -> Credentials:
    """Return the credentials of `use`; None means the pod's own identity.

    Surrounding whitespace is cut: a Secret made from a file often ends in a newline.

    Raises:
        AccessDenied: The Secret holds one half of a key pair, or what no request can carry.
    """
    if use is None:
        return Credentials()
    prefix = wire.credentials_prefix(use)
    values = {key: environ.get(prefix + key, "").strip() or None for key in wire.CREDENTIAL_KEYS}
    _check_characters(use, values)
    _check_pair(use, values)
    return Credentials(
        use=use,
        hf_token=values["HF_TOKEN"],
        access_key_id=values["AWS_ACCESS_KEY_ID"],
        secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        session_token=values["AWS_SESSION_TOKEN"],
        region=values["AWS_REGION"],
        endpoint_url=values["AWS_ENDPOINT_URL_S3"],
    )


def _check_characters(use: str, values: Mapping[str, str | None]) -> None:
    """Refuse what was pasted with more than the key: libraries fail on it in words of their own."""
    for key, value in values.items():
        if value is not None and not (value.isascii() and value.isprintable() and " " not in value):
            raise AccessDenied(
                f"{key} in the Secret for {use.lower()} holds a space, a line end or a letter outside"
                " ASCII: expected the key alone; write it into the Secret again and apply again.",
                reason="CredentialsMalformed",
            )


def _check_pair(use: str, values: Mapping[str, str | None]) -> None:
    pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    missing = [key for key in pair if values[key] is None]
    if len(missing) == 1:
        raise AccessDenied(
            f"The Secret for {use.lower()} lacks {missing[0]}: an S3 key pair needs"
            f" {' and '.join(pair)}; add the key to the Secret and apply again.",
            reason="CredentialsIncomplete",
        )
