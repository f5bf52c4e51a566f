"""Links and strange files in a claim: nothing outside it is read, copied or published."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.errors import DataInvalid, NotFound, PlanInvalid
from finetune_trainer.inputs.fetch import Surroundings, fetch_dataset, fetch_model
from finetune_trainer.inputs.volume_claims import ClaimFolder, find_in_claim
from tests.unit_trainer.inputs.test_fetch import MODEL, dataset_of, model_of, write_folder

ROWS = b'{"text": "Habari"}\n'
SECRET = b'{"text": "AWS_SECRET_ACCESS_KEY=hunter2"}\n'


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    """Two claims, and a file beside them that no claim holds."""
    write_folder(tmp_path / "claims" / "corpora" / "sw", {"a.jsonl": ROWS})
    write_folder(tmp_path / "claims" / "others", {"b.jsonl": SECRET})
    (tmp_path / "outside.jsonl").write_bytes(SECRET)
    return tmp_path / "claims"


def fetch_text(claims: Path, *, own: bool = False) -> list[str]:
    environ = {"FINETUNE_CLAIM_DIR": str(claims)} if own else {}
    fetched = fetch_dataset(
        dataset_of("pvc://corpora/sw"),
        claims.parent / "work",
        surroundings=Surroundings(environ=environ, claims=claims),
    )
    return sorted(file.source for file in fetched.train)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("z.jsonl", "{outside}"),
        ("z.jsonl", "../../others/b.jsonl"),
        ("z.jsonl", "/proc/self/environ"),
        ("z", "{parent}"),
        ("deep", "../../others"),
        ("README.md", "{outside}"),
    ],
)
def test_a_link_that_leaves_the_claim_ends_the_run(name: str, target: str, claims: Path) -> None:
    outside = claims.parent / "outside.jsonl"
    link = claims / "corpora" / "sw" / name
    link.symlink_to(target.format(outside=outside, parent=claims.parent))
    with pytest.raises(DataInvalid) as error:
        fetch_text(claims)
    assert error.value.reason == "LinkLeavesClaim"
    assert error.value.message == (
        f"{name!r} at pvc://corpora/sw is a link that leads out of its claim: expected regular files,"
        " and links only to files of the same claim; replace it by the file itself, or remove it, and"
        " apply again."
    )


def test_links_within_the_claim_are_followed_and_a_circle_ends(claims: Path) -> None:
    folder = claims / "corpora" / "sw"
    write_folder(claims / "corpora" / "blobs", {"1234": ROWS, "more/c.jsonl": ROWS})
    (folder / "b.jsonl").symlink_to("../blobs/1234")
    (folder / "more").symlink_to("../blobs/more")
    (claims / "corpora" / "blobs" / "more" / "back").symlink_to("..")
    assert fetch_text(claims) == [
        "pvc://corpora/sw/a.jsonl",
        "pvc://corpora/sw/b.jsonl",
        "pvc://corpora/sw/more/c.jsonl",
    ]


@pytest.mark.parametrize("kind", ["dangling", "loop", "fifo"])
def test_what_is_no_regular_file_ends_the_run(kind: str, claims: Path) -> None:
    path = claims / "corpora" / "sw" / "z.jsonl"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere" if kind == "dangling" else "z.jsonl")
    with pytest.raises(DataInvalid, match=r"leads to nothing|no regular file"):
        fetch_text(claims)


def test_the_texts_of_a_workstation_may_lie_anywhere(claims: Path) -> None:
    (claims / "corpora" / "sw" / "b.jsonl").symlink_to(claims.parent / "outside.jsonl")
    assert fetch_text(claims, own=True) == ["pvc://corpora/sw/a.jsonl", "pvc://corpora/sw/b.jsonl"]


@pytest.mark.parametrize("name", ["vocab.txt", "chat_template.jinja", "model.safetensors"])
def test_a_model_with_a_link_to_the_outside_is_not_taken(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "claims" / "models" / "base", MODEL)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/proc/self/environ")
    with pytest.raises(DataInvalid) as error:
        fetch_model(
            model_of("pvc://models/base"),
            tmp_path / "model",
            surroundings=Surroundings(environ={}, claims=tmp_path / "claims"),
        )
    assert error.value.reason == "LinkLeavesClaim"
    assert not (tmp_path / "model" / name).exists()


def test_only_the_files_of_a_model_reach_the_folder_that_is_loaded(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "claims" / "models" / "base", MODEL)
    (folder / "notes.bin").symlink_to("/proc/self/environ")
    (folder / "run.py").write_text("import os")
    found = fetch_model(
        model_of("pvc://models/base"),
        tmp_path / "model",
        surroundings=Surroundings(environ={}, claims=tmp_path / "claims"),
    )
    assert {path.name for path in found.path.iterdir()} == set(MODEL)


def test_a_folder_that_becomes_a_link_after_the_look_is_not_followed(
    claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer of the claim may exchange a folder between the check and the copy."""
    claim = find_in_claim("pvc://corpora/sw", what="model", claims=claims)
    real = claim.find_real(claim.path / "a.jsonl")
    monkeypatch.setattr(ClaimFolder, "find_real", lambda *_: real)
    (claims / "others" / "a.jsonl").write_bytes(SECRET)
    (claims / "corpora" / "sw").rename(claims / "corpora" / "before")
    (claims / "corpora" / "sw").symlink_to("../others")
    target = claims.parent / "copy"
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        claim.copy(real, target)
    assert not target.exists() or target.read_bytes() == b""


@given(st.lists(st.sampled_from(["..", ".", "sw", "others", "a.jsonl", "", "corpora"]), max_size=6))
def test_no_path_leads_out_of_its_claim(parts: list[str]) -> None:
    claims = Path("/nowhere/claims")
    try:
        found = find_in_claim(f"pvc://corpora/{'/'.join(parts)}", what="model", claims=claims)
    except (PlanInvalid, NotFound):
        return
    assert found.path.is_relative_to(found.root)
