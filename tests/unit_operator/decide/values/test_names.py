"""Names of Jobs, plans and labels."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.decide.values.names import job_name, label_value, plan_name

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
resource_names = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?(\.[a-z0-9]{1,40}){0,4}\Z")


def job(name: str) -> str:
    return job_name(name=name, run=1, role="train", attempt=1)


def plan(name: str) -> str:
    return plan_name(name=name, run=1, content_sha256="0123456789abcdef")


def test_a_short_name_is_kept_whole() -> None:
    assert job("welsh") == "welsh-1-train-1"
    assert plan("welsh") == "welsh-1-plan-01234567"
    assert label_value("welsh.v2") == "welsh.v2"


def test_the_longest_name_that_fits_is_kept_and_the_next_is_cut() -> None:
    assert job("a" * 53) == "a" * 53 + "-1-train-1"
    assert re.fullmatch(r"a{42}-[0-9a-f]{10}-1-train-1", job("a" * 54))
    assert len(job("a" * 54)) == 63


@pytest.mark.parametrize("make", [job, plan, label_value], ids=["job", "plan", "label"])
def test_twins_that_differ_only_at_the_end_get_different_names(make: object) -> None:
    assert callable(make)
    first, second = "very-long." * 25 + "a", "very-long." * 25 + "b"
    assert make(first) != make(second)


def test_a_dot_and_a_dash_do_not_meet() -> None:
    assert len({job("a.b"), job("a-b"), plan("a.b"), plan("a-b")}) == 4


@given(resource_names)
def test_every_legal_resource_name_gives_legal_names(name: str) -> None:
    assert DNS_LABEL.fullmatch(job(name))
    assert DNS_LABEL.fullmatch(plan(name))
    assert LABEL_VALUE.fullmatch(label_value(name))


def test_runs_attempts_and_roles_have_names_of_their_own() -> None:
    names = {
        job_name(name="a", run=run, role=role, attempt=attempt)
        for run in (1, 2)
        for role in ("train", "measure")
        for attempt in (1, 2)
    }
    assert len(names) == 8
