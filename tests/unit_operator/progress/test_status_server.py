"""The status server: who may report, what a report is, and how a refusal reads."""

import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import rsa

from finetune_api import wire
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod
from finetune_operator.metrics import Metrics
from finetune_operator.progress.buffer import ProgressBuffer
from finetune_operator.progress.pod_token import TokenVerifier
from finetune_operator.progress.status_server import StatusServer
from finetune_operator.watch.store import Store
from tests.unit_operator.fake_api import FakeApi, build_object, build_status

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
FOREIGN_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ISSUER = "https://kubernetes.default.svc"
PATH = wire.progress_path("ml", "sw", 1)
TRAINING_POD = {"namespace": "ml", "pod": {"name": "p", "uid": "uid-p"}}
REPORT = {"trainerStatus": {"progressPercentage": 7, "metrics": [{"name": "loss", "value": "2"}]}}


def token(
    *,
    key: rsa.RSAPrivateKey = KEY,
    audience: str = wire.token_audience("uid-sw", 1),
    bound: dict[str, Any] = TRAINING_POD,
    **more: Any,
) -> str:
    claims = {
        "iss": ISSUER,
        "aud": [audience],
        "sub": "system:serviceaccount:ml:default",
        "exp": time.time() + 600,
        "kubernetes.io": bound,
        **more,
    }
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "k1"})


def job(name: str, *, attempt: int, finished: bool = False) -> dict[str, Any]:
    raw = build_object(name, version=1, owner="sw")
    raw["metadata"]["labels"] = {
        wire.LABEL_ROLE: wire.ROLE_TRAIN,
        wire.LABEL_RUN: "1",
        wire.LABEL_ATTEMPT: str(attempt),
    }
    if finished:
        raw["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    return raw


class Served:
    """A status server, its stores and a client."""

    def __init__(self, api: FakeApi, client: "TestClient[Any, Any]") -> None:
        self.api = api
        self.client = client
        self.jobs: Store[ObservedJob] = Store(ObservedJob.from_object)
        self.pods: Store[ObservedPod] = Store(ObservedPod.from_object)
        self.buffer = ProgressBuffer(jitter=lambda: 0.0)

    async def post(self, path: str = PATH, *, bearer: str | None = None, **more: Any) -> Any:
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        response = await self.client.post(path, headers=headers, **({"json": REPORT} | more))
        return response.status, await response.json()


@pytest.fixture
async def served(api: FakeApi) -> AsyncIterator[Served]:
    served = Served(api, client=None)  # type: ignore[arg-type]  # the client needs the server first
    server = StatusServer(
        verifier=TokenVerifier(client=api.client()),
        jobs=served.jobs,
        pods=served.pods,
        buffer=served.buffer,
        metrics=Metrics(),
    )
    async with TestClient(TestServer(server.application())) as client:
        served.client = client
        served.jobs.put(job("j1", attempt=1))
        served.pods.put(build_object("p", version=1, owner="j1"))
        yield served


def publish_keys(api: FakeApi) -> None:
    """Prepare the answers to the verifier's two questions."""
    public = jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    api.answer(200, {"issuer": ISSUER})
    api.answer(200, {"keys": [{**public, "kid": "k1", "alg": "RS256", "use": "sig"}]})


async def test_a_training_pod_is_answered_at_once_and_its_report_is_kept(served: Served) -> None:
    publish_keys(served.api)
    assert await served.post(bearer=token()) == (202, {})
    [(run, status)] = served.buffer.take_due(now=time.monotonic() + 5, limit=10)
    assert (run.uid, run.run, status.percent, status.loss) == ("uid-sw", 1, 7, "2")


async def test_keys_are_fetched_once_for_many_reports(served: Served) -> None:
    publish_keys(served.api)
    for _ in range(5):
        await served.post(bearer=token())
    assert len(served.api.requests) == 2


async def test_a_report_after_the_end_is_accepted_and_dropped(served: Served) -> None:
    publish_keys(served.api)
    finished = job("j1", attempt=1, finished=True)
    finished["metadata"]["resourceVersion"] = "2"
    served.jobs.put(finished)
    assert await served.post(bearer=token()) == (202, {})
    assert len(served.buffer) == 0


@pytest.mark.parametrize(
    ("bearer", "message"),
    [
        (None, "The request has no bearer token."),
        ("", "The request has no bearer token."),
        ("x.y.z", "The token is no JSON web token: Invalid header "),
        (token(key=FOREIGN_KEY), "The token does not hold: Signature verification failed."),
        (token(exp=1.0), "The token does not hold: Signature has expired."),
        (token(iss="https://evil"), "The token does not hold: Invalid issuer."),
        (
            token(audience=wire.token_audience("uid-sw", 2)),
            "The token is for another audience than this run.",
        ),
        (
            token(audience="https://kubernetes.default.svc"),
            "The token is for another audience than this run.",
        ),
        (token(bound={"namespace": "ml"}), "The token is not bound to a pod."),
    ],
    ids=[
        "no header",
        "empty",
        "garbage",
        "foreign key",
        "expired",
        "foreign issuer",
        "another run",
        "the API server's own",
        "no pod",
    ],
)
async def test_a_token_that_proves_nothing_is_refused(
    served: Served, bearer: str | None, message: str
) -> None:
    publish_keys(served.api)
    code, body = await served.post(bearer=bearer)
    assert code == 401
    assert body["message"].startswith(message)
    assert len(served.buffer) == 0


async def test_a_pod_that_nobody_knows_is_refused_and_nobody_is_asked_about_it(
    served: Served,
) -> None:
    stranger = {"namespace": "ml", "pod": {"name": "s", "uid": "uid-stranger"}}
    code, body = await served.post(bearer=token(bound=stranger))
    assert (code, body["message"]) == (
        401,
        "The token's pod trains nothing here, or is too new to be known; report again.",
    )
    assert served.api.requests == []


@pytest.mark.parametrize(
    "path",
    [wire.progress_path("ml", "other", 1), wire.progress_path("prod", "sw", 1)],
    ids=["another resource", "another namespace"],
)
async def test_a_pod_reports_for_its_own_resource_only(served: Served, path: str) -> None:
    publish_keys(served.api)
    code, body = await served.post(path, bearer=token())
    assert code == 403
    assert body["message"].startswith("The token's pod does not train run 1 of ")


async def test_a_pod_of_an_earlier_attempt_is_refused(served: Served) -> None:
    publish_keys(served.api)
    served.jobs.put(job("j2", attempt=2))
    code, body = await served.post(bearer=token())
    assert (code, body["message"]) == (403, "The token's pod does not train run 1 of ml/sw now.")


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (
            {"json": {"trainerStatus": {"progressPercentage": 101}}},
            400,
            "The report is malformed: trainerStatus.progressPercentage: Input should be less than",
        ),
        (
            {"json": {"trainerStatus": {"estimatedRemainingSeconds": 2**63}}},
            400,
            "The report is malformed: trainerStatus.estimatedRemainingSeconds: Input should be less",
        ),
        ({"json": None, "data": b"{"}, 400, "The report is malformed: the body: Invalid JSON"),
        ({"json": None, "data": b"x" * 65_537}, 413, "A report has at most 65536 bytes."),
    ],
    ids=["out of bounds", "no 64-bit number", "no JSON", "too large"],
)
async def test_a_malformed_report_is_refused_with_the_reason(
    served: Served, more: dict[str, Any], code: int, message: str
) -> None:
    publish_keys(served.api)
    answered, body = await served.post(bearer=token(), **more)
    assert answered == code
    assert body["message"].startswith(message)


async def test_there_is_no_other_path(served: Served) -> None:
    code, body = await served.post("/metrics", bearer=token())
    assert (code, body["message"]) == (404, "POST /metrics is not served here.")


async def test_where_keys_may_not_be_read_the_token_is_reviewed(served: Served) -> None:
    user = {
        "username": "system:serviceaccount:ml:default",
        "extra": {"authentication.kubernetes.io/pod-uid": ["uid-p"]},
    }
    audiences = [wire.token_audience("uid-sw", 1)]
    served.api.answer(403, build_status(403, "Forbidden"))
    review = {"authenticated": True, "user": user, "audiences": audiences}
    served.api.answer(201, {"status": review})
    bearer = token(key=FOREIGN_KEY)  # the review decides, not the signature
    assert await served.post(bearer=bearer) == (202, {})
    assert await served.post(bearer=bearer) == (202, {})
    [_, (method, path, body)] = served.api.requests  # the second answer came from the cache
    assert (method, path) == ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
    assert body["spec"] == {"token": bearer, "audiences": audiences}


async def test_a_token_that_the_review_does_not_accept_is_refused(served: Served) -> None:
    served.api.answer(403, build_status(403, "Forbidden"))
    served.api.answer(201, {"status": {"authenticated": False}})
    code, body = await served.post(bearer=token())
    assert code == 401
    assert body["message"] == "The API server does not accept the token for this run."


async def test_an_outage_of_the_api_server_asks_the_pod_to_come_again(served: Served) -> None:
    served.api.answer(429, build_status(429, "TooManyRequests"), Retry_After="120")
    code, body = await served.post(bearer=token())
    assert code == 503
    assert body["message"] == "The API server cannot be asked about the token; report again."
