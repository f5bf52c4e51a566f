"""Requests to the API server: errors by kind, patience where it is asked for, nothing doubled."""

import pytest

from finetune_operator import errors
from finetune_operator.cluster.kinds import CONFIG_MAPS, FINETUNES, JOBS, PODS, find_kind
from tests.unit_operator.fake_api import FakeApi, build_object, build_status

JOB = {"apiVersion": "batch/v1", "kind": "Job", **build_object("a", version=1)}


@pytest.mark.parametrize(
    ("code", "reason", "family"),
    [
        (404, "NotFound", errors.NotFoundError),
        (409, "AlreadyExists", errors.AlreadyExistsError),
        (409, "Conflict", errors.ConflictError),
        (410, "Expired", errors.GoneError),
        (403, "Forbidden", errors.ForbiddenError),
        (401, "Unauthorized", errors.UnauthorizedError),
        (422, "Invalid", errors.InvalidObjectError),
        (400, "BadRequest", errors.InvalidObjectError),
    ],
)
async def test_each_refusal_is_an_error_of_its_own(
    api: FakeApi, code: int, reason: str, family: type[errors.ClusterError]
) -> None:
    api.answer(code, build_status(code, reason, "quota is full"))
    with pytest.raises(family) as caught:
        await api.client().create(JOBS, namespace="ml", manifest=JOB)
    assert type(caught.value) is family
    assert caught.value.answer == "quota is full"
    path = "/apis/batch/v1/namespaces/ml/jobs"
    assert str(caught.value) == f"POST {path} was answered {code}: quota is full"


@pytest.mark.parametrize("code", [429, 500, 503, 504])
async def test_an_overloaded_server_is_asked_again(api: FakeApi, code: int) -> None:
    api.answer(code, build_status(code, "TooManyRequests"))
    api.answer(200, JOB)
    assert await api.client().get(JOBS, namespace="ml", name="a") == JOB


async def test_a_page_in_place_of_an_object_is_an_outage(api: FakeApi) -> None:
    # Asked five times, like after any outage.
    for page in ("null", "", "[]", "{", "<html>Sign in</html>"):
        api.answer(200, page)
    with pytest.raises(errors.UnavailableError) as caught:
        await api.client().get(JOBS, namespace="ml", name="a")
    path = "/apis/batch/v1/namespaces/ml/jobs/a"
    assert str(caught.value) == (
        f"GET {path} was answered with no object: b'<html>Sign in</html>'."
    )


async def test_a_long_retry_after_is_left_to_the_queue(api: FakeApi) -> None:
    api.answer(429, build_status(429, "TooManyRequests"), Retry_After="120")
    with pytest.raises(errors.UnavailableError) as caught:
        await api.client().get(JOBS, namespace="ml", name="a")
    assert caught.value.retry_after_s == 120


async def test_no_answer_is_an_outage(api: FakeApi) -> None:
    client = api.client()
    await api.stop_serving()
    with pytest.raises(errors.UnavailableError, match=r"got no answer: "):
        await client.get(JOBS, namespace="ml", name="a")


async def test_deletion_is_in_the_background_and_of_this_very_object(api: FakeApi) -> None:
    api.answer(200, {})
    await api.client().delete(JOBS, namespace="ml", name="a", uid="uid-a")
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "preconditions": {"uid": "uid-a"},
    }
    assert api.requests == [("DELETE", "/apis/batch/v1/namespaces/ml/jobs/a", options)]


async def test_what_must_have_stopped_first_is_deleted_in_the_foreground(api: FakeApi) -> None:
    api.answer(200, {})
    client = api.client()
    await client.delete(JOBS, namespace="ml", name="a", uid="uid-a", propagation="Foreground")
    assert api.requests[0][2]["propagationPolicy"] == "Foreground"


async def test_status_is_applied_by_its_manager_with_force(api: FakeApi) -> None:
    api.answer(200, JOB)
    await api.client().apply_status(FINETUNES, manifest=JOB, field_manager="me")
    method, path, _ = api.requests[0]
    root = "/apis/langops.dev/v1alpha1/namespaces/ml/languagefinetunes/a/status"
    assert (method, path) == ("PATCH", f"{root}?fieldManager=me&force=true")


async def test_every_answer_is_counted(api: FakeApi) -> None:
    counted: list[tuple[str, int]] = []
    api.answer(503, build_status(503, "ServiceUnavailable"))
    api.answer(200, JOB)
    client = api.client(count=lambda method, code: counted.append((method, code)))
    await client.get(JOBS, namespace="ml", name="a")
    assert counted == [("GET", 503), ("GET", 200)]


def test_paths_are_those_of_the_core_and_of_groups() -> None:
    assert PODS.path(namespace="ml", name="p") == "/api/v1/namespaces/ml/pods/p"
    assert FINETUNES.path() == "/apis/langops.dev/v1alpha1/languagefinetunes"
    assert PODS.path(namespace="../x") == "/api/v1/namespaces/..%2Fx/pods"


def test_only_what_a_run_consists_of_may_be_created() -> None:
    assert find_kind("v1", "ConfigMap") is CONFIG_MAPS
    with pytest.raises(KeyError):
        find_kind("v1", "Secret")
