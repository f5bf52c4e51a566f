"""What decides whether an image is built again, and the archives made without a builder."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.dockerfile import copied_sources
from tests.cluster.images import Build, full_name, hash_inputs, parse_arguments
from tests.cluster.static_images import build_archive, build_layer
from tests.cluster.steps import LabError


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        pytest.param("trainer", "localhost/language-finetune/trainer:dev", id="short name"),
        pytest.param("trainer:2", "localhost/language-finetune/trainer:2", id="with a tag"),
        pytest.param("localhost:5/x/y", "localhost:5/x/y:dev", id="a port is no tag"),
        pytest.param("localhost/x:1", "localhost/x:1", id="whole name"),
    ],
)
def test_short_names_are_completed(given: str, whole: str) -> None:
    assert full_name(given) == whole


def test_build_arguments_may_hold_equals_signs() -> None:
    assert parse_arguments(["A=b=c", "D="]) == {"A": "b=c", "D": ""}


def test_build_argument_without_value_is_refused() -> None:
    with pytest.raises(LabError, match="build argument A has no value; write A=VALUE"):
        parse_arguments(["A"])


DOCKERFILE = """\
# COPY comment /x
FROM base AS build
COPY --chown=1:1 pyproject.toml \\
     uv.lock /src/
add ["a b", "/c/"]
FROM base
COPY --from=build /opt/venv /opt/venv
COPY operator/ /app/
COPY operator/ /again/
"""


def test_copied_files_are_found_and_other_stages_left_out() -> None:
    assert copied_sources(DOCKERFILE) == ["pyproject.toml", "uv.lock", "a b", "operator/"]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A build of one Dockerfile that copies one folder."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text("1")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM x\nCOPY app /app\n")
    return Build(name="x", dockerfile=dockerfile, context=tmp_path)


def test_same_inputs_give_the_same_hash(build: Build) -> None:
    assert hash_inputs(build, base="b") == hash_inputs(build, base="b")


def test_copied_file_decides(build: Build) -> None:
    before = hash_inputs(build, base="b")
    (build.context / "app" / "main.py").write_text("2")
    assert hash_inputs(build, base="b") != before


def test_files_that_are_not_copied_do_not_decide(build: Build) -> None:
    before = hash_inputs(build, base="b")
    (build.context / "notes.md").write_text("x")
    cache = build.context / "app" / "__pycache__"
    cache.mkdir()
    (cache / "main.pyc").write_text("x")
    assert hash_inputs(build, base="b") == before


def test_base_and_arguments_decide(build: Build) -> None:
    hashes = {
        hash_inputs(build, base="b"),
        hash_inputs(build, base="c"),
        hash_inputs(replace(build, arguments={"A": "1"}), base="b"),
        hash_inputs(replace(build, target="test"), base="b"),
    }
    assert len(hashes) == 4


def test_busybox_commands_are_links_to_it() -> None:
    content = io.BytesIO(build_layer(program=b"x", applets=["sh", "busybox"]))
    with tarfile.open(fileobj=content) as layer:
        assert layer.getmember("bin/sh").linkname == "busybox"
        assert layer.getmember("bin/busybox").isfile()


def test_archive_has_one_image_under_every_name() -> None:
    content = io.BytesIO(build_archive(layer=b"layer", names=["a:1", "b:1"]))
    with tarfile.open(fileobj=content) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        assert json.load(manifest)[0]["RepoTags"] == ["a:1", "b:1"]
