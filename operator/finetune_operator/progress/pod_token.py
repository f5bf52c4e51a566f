"""Whether a progress report comes from where it says: the projected token of a training pod.

The status server asks, `verify` answers with the claims or a refusal. Signatures are checked with the
cluster's own public keys; where these may not be read, the API server is asked to review the token.
Answers are kept for a minute. Nothing here knows which pod is the right one.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import structlog

from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.kinds import TOKEN_REVIEWS
from finetune_operator.errors import (
    ForbiddenError,
    InvalidObjectError,
    NotFoundError,
    TokenRefusedError,
)

CACHE_S = 60.0
"""Seconds for which an answer counts: so long may a revoked token still report."""
CACHE_LIMIT = 10_000
"""Tokens remembered: one for each of as many running pods."""
KEYS_PATH = "/openid/v1/jwks"
DISCOVERY_PATH = "/.well-known/openid-configuration"
KEYS_PAUSE_S = 30.0
"""Seconds before the keys are fetched again for a token whose key is unknown."""
ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]
POD_UID = "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a valid token says."""

    audiences: frozenset[str]
    namespace: str
    pod_uid: str
    expires: float
    """Seconds of the epoch; a token that was reviewed counts for as long as the answer is kept."""


@dataclass(frozen=True)
class _Keys:
    issuer: str
    by_id: Mapping[str, jwt.PyJWK]
    fetched_at: float


class TokenVerifier:
    """Verifies tokens.

    Args:
        client: gives keys and reviews.
        now: seconds of the epoch.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        client: ApiClient,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._now = now
        self._clock = clock
        self._keys: _Keys | None = None
        self._review_only = False
        self._fetching = asyncio.Lock()
        self._cache: dict[str, tuple[float, TokenClaims]] = {}

    async def verify(self, token: str, *, audience: str) -> TokenClaims:
        """Return the claims of a token that was issued for `audience`.

        Raises:
            TokenRefusedError: with one sentence that says why.
            ClusterError: the API server could not be asked.
        """
        digest = hashlib.sha256(f"{audience}\n{token}".encode()).hexdigest()
        kept = self._cache.get(digest)
        if kept is not None and kept[0] > self._clock() and kept[1].expires > self._now():
            return kept[1]
        claims = await self._verify_anew(token, audience=audience)
        if audience not in claims.audiences:
            raise TokenRefusedError("The token is for another audience than this run.")
        while len(self._cache) >= CACHE_LIMIT:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = (self._clock() + CACHE_S, claims)
        return claims

    async def _verify_anew(self, token: str, *, audience: str) -> TokenClaims:
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
        except jwt.InvalidTokenError as error:
            raise TokenRefusedError(f"The token is no JSON web token: {error}.") from error
        keys = None if self._review_only else await self._keys_with(key_id)
        if keys is None:
            return await self._review(token, audience=audience)
        if (key := keys.by_id.get(key_id)) is None:
            raise TokenRefusedError(
                "The token is signed with a key that this cluster does not have."
            )
        return decode_claims(token, key=key, issuer=keys.issuer)

    async def _keys_with(self, key_id: str) -> _Keys | None:
        async with self._fetching:
            keys = self._keys
            if keys is not None and key_id in keys.by_id:
                return keys
            if keys is not None and self._clock() - keys.fetched_at < KEYS_PAUSE_S:
                return keys
            try:
                self._keys = await self._fetch_keys()
            except (ForbiddenError, NotFoundError) as error:
                structlog.get_logger().info(
                    "Token keys may not be read; tokens are reviewed instead.", error=str(error)
                )
                self._review_only = True
                return None
            return self._keys

    async def _fetch_keys(self) -> _Keys:
        discovery = await self._client.get_path(DISCOVERY_PATH)
        found = await self._client.get_path(KEYS_PATH)
        keys = dict(_usable(found["keys"]))
        return _Keys(issuer=discovery["issuer"], by_id=keys, fetched_at=self._clock())

    async def _review(self, token: str, *, audience: str) -> TokenClaims:
        review = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            "spec": {"token": token, "audiences": [audience]},
        }
        try:
            answer = await self._client.create(TOKEN_REVIEWS, namespace=None, manifest=review)
        except InvalidObjectError as error:
            raise TokenRefusedError("The API server cannot read the token.") from error
        return read_review(answer.get("status") or {}, expires=self._now() + CACHE_S)


def _usable(keys: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, jwt.PyJWK]]:
    for key in keys:
        try:
            yield key["kid"], jwt.PyJWK.from_dict(dict(key))
        except jwt.PyJWTError as error:
            structlog.get_logger().info("A token key is of no known kind.", error=str(error))


def decode_claims(token: str, *, key: jwt.PyJWK, issuer: str) -> TokenClaims:
    """Return the claims of a token whose signature, issuer and times are right.

    The audience is only read: whom the token is for is compared by the caller.

    Raises:
        TokenRefusedError: with one sentence that says why.
    """
    try:
        payload: dict[str, Any] = jwt.decode(
            token,
            key=key,
            algorithms=ALGORITHMS,
            issuer=issuer,
            options={"require": ["exp", "iss", "aud", "sub"], "verify_aud": False},
        )
    except jwt.InvalidTokenError as error:
        raise TokenRefusedError(f"The token does not hold: {error}.") from error
    audiences = payload["aud"]
    bound = payload.get("kubernetes.io") or {}
    return TokenClaims(
        audiences=frozenset([audiences] if isinstance(audiences, str) else audiences),
        namespace=bound.get("namespace", ""),
        pod_uid=(bound.get("pod") or {}).get("uid", ""),
        expires=float(payload["exp"]),
    )


def read_review(status: Mapping[str, Any], *, expires: float) -> TokenClaims:
    """Return the claims in a review's answer.

    Raises:
        TokenRefusedError: the API server does not accept the token.
    """
    if not status.get("authenticated"):
        raise TokenRefusedError("The API server does not accept the token for this run.")
    user = status.get("user") or {}
    parts = user.get("username", "").split(":")
    is_service_account = parts[:2] == ["system", "serviceaccount"] and len(parts) == 4
    uids = (user.get("extra") or {}).get(POD_UID) or [""]
    return TokenClaims(
        audiences=frozenset(status.get("audiences") or ()),
        namespace=parts[2] if is_service_account else "",
        pod_uid=uids[0],
        expires=expires,
    )


def unverified_pod_uid(token: str) -> str:
    """Return the pod that a token names, before anything is verified: good for a look-up only.

    Raises:
        TokenRefusedError: the token names none.
    """
    try:
        payload = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise TokenRefusedError(f"The token is no JSON web token: {error}.") from error
    bound = payload.get("kubernetes.io")
    pod = bound.get("pod") if isinstance(bound, dict) else None
    uid = pod.get("uid") if isinstance(pod, dict) else None
    if not isinstance(uid, str):
        raise TokenRefusedError("The token is not bound to a pod.")
    return uid
