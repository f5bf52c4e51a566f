"""The CustomResourceDefinition: what Kubernetes and the people who read it rely on."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.crd import COLUMNS, build_crd, build_files, build_root_schema, main
from finetune_api.frozen import FROZEN
from finetune_api.resource import LanguageFinetuneSpec

ROOT = Path(__file__).parents[2]
LAST_APPLIED_LIMIT_BYTES = 256 * 1024
MUTABLE = {
    "suspend",
    "updatePolicy",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "activeDeadlineSeconds",
    "deadlinePolicy",
}


def walk(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(f"{path}.{name}", child)
    if "items" in schema:
        yield from walk(f"{path}[]", schema["items"])
    if "additionalProperties" in schema:
        yield from walk(f"{path}{{}}", schema["additionalProperties"])


ROOT_SCHEMA = build_root_schema()
SPEC = list(walk("spec", ROOT_SCHEMA["properties"]["spec"]))
STATUS = list(walk("status", ROOT_SCHEMA["properties"]["status"]))


@pytest.mark.parametrize("path", build_files(), ids=str)
def test_a_generated_file_is_as_the_models_say(path: Path) -> None:
    assert (ROOT / path).read_text() == build_files()[path], "run `python -m finetune_api.crd`"


def test_the_check_names_what_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    (tmp_path / "docs/reference.md").write_text("old")

    assert main(["--check"]) == 1
    assert capsys.readouterr().err == (
        "out of date: docs/reference.md; run `python -m finetune_api.crd`\n"
    )


def test_the_manifest_fits_the_annotation_of_kubectl_apply() -> None:
    assert len(yaml.safe_dump(build_crd()).encode()) < LAST_APPLIED_LIMIT_BYTES


def test_the_chart_finds_nothing_to_template_in_the_schema() -> None:
    assert "{{" not in yaml.safe_dump(build_crd())


@pytest.mark.parametrize(("path", "schema"), SPEC + STATUS, ids=[path for path, _ in SPEC + STATUS])
def test_every_field_is_structural_bounded_and_explained(path: str, schema: dict[str, Any]) -> None:
    assert not {"$ref", "anyOf", "oneOf", "allOf", "title"} & schema.keys()
    assert not ("properties" in schema and "additionalProperties" in schema)
    assert "description" in schema or path.endswith(("[]", "{}"))
    if schema["type"] == "string":
        assert "maxLength" in schema or "enum" in schema
    if schema["type"] == "array":
        assert "maxItems" in schema
        assert schema["x-kubernetes-list-type"] in ("atomic", "map")
    if "additionalProperties" in schema:
        assert "maxProperties" in schema


def test_admission_adds_nothing_to_a_spec() -> None:
    assert [path for path, schema in SPEC if "default" in schema] == []


def test_explain_tells_the_default() -> None:
    split = dict(SPEC)["spec.languages[].dataset.split"]

    assert split["description"] == "Split to read; only with hf://. Default: train."


def test_no_word_of_an_enum_is_a_boolean_of_yaml() -> None:
    words = {word for _, schema in SPEC for word in schema.get("enum", ())}

    assert [word for word in words if yaml.safe_load(word) != word] == []


def test_no_reference_leads_into_another_namespace() -> None:
    assert [path for path, _ in SPEC if path.endswith(".namespace")] == []


def test_status_asks_for_nothing_but_the_keys_of_its_lists() -> None:
    asked = {path: schema["required"] for path, schema in STATUS if "required" in schema}

    assert asked == {"status.conditions[]": ["type"]}


def test_status_knows_no_closed_set_of_words() -> None:
    assert [path for path, schema in STATUS if {"enum", "pattern"} & schema.keys()] == []


def test_a_new_object_was_observed_at_no_generation() -> None:
    assert dict(STATUS)["status"]["default"] == {"observedGeneration": -1}


@pytest.mark.parametrize("column", COLUMNS, ids=[column[0] for column in COLUMNS])
def test_a_column_shows_a_field_that_exists(column: tuple[str, str, str, int]) -> None:
    known = {re.sub(r"\[\]", "", path) for path, _ in (*SPEC, *STATUS)}
    path = re.sub(r"\[.*?\]", "", column[2]).removeprefix(".")

    assert path in known | {"metadata.creationTimestamp"}


def test_a_field_is_either_frozen_or_mutable_on_purpose() -> None:
    fields = {field.alias or name for name, field in LanguageFinetuneSpec.model_fields.items()}

    assert fields == set(FROZEN) | MUTABLE
