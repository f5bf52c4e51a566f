"""Every file of a dataset is read, known to hold no rows, or named with its count."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_text.files.census import FileRole, NamedFile, take_census
from finetune_text.files.language_files import choose_language_files
from finetune_text.files.splits import split_of


def read_of(*names: str, tag: str = "sw", splits: tuple[str, ...] = ("train",)) -> tuple[str, ...]:
    return take_census([NamedFile(name, 1) for name in names], splits=splits, tag=tag).read


SPLITS = {
    "train.jsonl": "train",
    "data/train-00000-of-00002.parquet": "train",
    "training_set.csv": "train",
    "sw-train.jsonl.gz": "train",
    "train_test.jsonl": "train",
    "test/train.jsonl": "train",
    "train/test.jsonl": "test",
    "TEST.JSONL": "test",
    "testData.csv": "test",
    "test1.jsonl": "test",
    "eval.json": "test",
    "evaluation/a.txt": "test",
    "flores.devtest": "test",
    "dev.tsv": "validation",
    "valid.txt": "validation",
    "corpus.val.jsonl": "validation",
    "held-out/rows.jsonl": "validation",
    "held_out.jsonl": "validation",
    "HoldOut.csv": "validation",
    "protest-songs.jsonl": "",
    "latest.jsonl": "",
    "contest.csv": "",
    "development-goals.txt": "",
    "devotional.txt": "",
    "valley.jsonl": "",
    "trainer.jsonl": "",
    "habari.jsonl": "",
}


@pytest.mark.parametrize(("name", "split"), SPLITS.items(), ids=list(SPLITS))
def test_the_split_of_a_file_is_read_from_its_name(name: str, split: str) -> None:
    assert split_of(name) == split


DIVIDED = {
    "folders": (("en/a.csv", "fr/a.csv", "sw/a.csv"), "sw", ("sw/a.csv",)),
    "files": (("sw.jsonl", "en.jsonl"), "sw", ("sw.jsonl",)),
    "FLORES codes": (
        ("data/acm_Arab.jsonl", "data/eng_Latn.jsonl", "data/swh_Latn.jsonl"),
        "sw",
        ("data/swh_Latn.jsonl",),
    ),
    "three letters": (("swa.txt", "eng.txt", "fra.txt"), "sw", ("swa.txt",)),
    "a tag of three letters": (("sw.txt", "en.txt"), "swh", ("sw.txt",)),
    "a tag with a region": (("sw.txt", "en.txt"), "sw-KE", ("sw.txt",)),
    "a folder with a region": (("sw-KE/a.txt", "en-US/a.txt"), "sw", ("sw-KE/a.txt",)),
    "regions": (("pt-BR.txt", "pt-PT.txt", "en-US.txt"), "pt-BR", ("pt-BR.txt",)),
    "regions for a tag without one": (
        ("pt_BR.txt", "pt_PT.txt", "en_US.txt"),
        "pt",
        ("pt_BR.txt", "pt_PT.txt"),
    ),
    "scripts": (("zh_Hans.txt", "zh_Hant.txt"), "zh-Hant", ("zh_Hant.txt",)),
    "a script by the region": (("zh-CN.txt", "zh-TW.txt"), "zh-Hans", ("zh-CN.txt",)),
    "a script of its own": (("pa_Guru.txt", "pnb_Arab.txt"), "pa", ("pa_Guru.txt",)),
    "dialects": (("arb_Arab.txt", "ary_Arab.txt", "arz_Arab.txt"), "ar", ("arb_Arab.txt",)),
    "Bokmål": (("nob_Latn.txt", "nno_Latn.txt"), "no", ("nob_Latn.txt",)),
    "tokens of a name": (
        ("train.sw.jsonl.gz", "train.en.jsonl.gz"),
        "sw",
        ("train.sw.jsonl.gz",),
    ),
    "shards": (
        ("mc4-sw-00001.jsonl", "mc4-sw-00002.jsonl", "mc4-en-00001.jsonl"),
        "sw",
        ("mc4-sw-00001.jsonl", "mc4-sw-00002.jsonl"),
    ),
    "English names": (("swahili.jsonl", "english.jsonl"), "sw", ("swahili.jsonl",)),
    "splits inside": (
        ("sw/train.jsonl", "sw/test.jsonl", "en/train.jsonl"),
        "sw",
        ("sw/train.jsonl",),
    ),
    "languages inside splits": (
        ("train/sw.jsonl", "train/en.jsonl", "test/sw.jsonl"),
        "sw",
        ("train/sw.jsonl",),
    ),
    "something else beside": (
        ("en/a.txt", "fr/a.txt", "sw/a.txt", "misc/a.txt"),
        "sw",
        ("sw/a.txt",),
    ),
    "other names beside": (("en_train.txt", "fr_train.txt", "sw.txt"), "sw", ("sw.txt",)),
    "capitals": (("EN/a.txt", "SW/a.txt"), "sw", ("SW/a.txt",)),
    "pairs": (("en-sw/a.txt", "en-fr/a.txt"), "sw", ("en-sw/a.txt",)),
    "no language in the tag": (("en.txt", "sw.txt"), "und", ("en.txt", "sw.txt")),
    "none of them": (("en/a.txt", "fr/a.txt"), "sw", ()),
    "none of them, by three letters": (("eng/a.txt", "fra/a.txt"), "sw", ()),
}


@pytest.mark.parametrize(("names", "tag", "read"), DIVIDED.values(), ids=list(DIVIDED))
def test_of_several_languages_the_tag_s_files_are_read(
    names: tuple[str, ...], tag: str, read: tuple[str, ...]
) -> None:
    assert read_of(*names, tag=tag) == read


UNDIVIDED = {
    "numbers": ("part-1.txt", "part-2.txt"),
    "words of three letters": ("new.txt", "old.txt", "raw.txt", "all.txt"),
    "topics": ("history.txt", "law.txt", "art.txt", "science.txt"),
    "one language": ("sw/a.txt", "sw/b.txt"),
    "one language and a topic": ("sw.txt", "proverbs.txt"),
    "dates": ("2024-01.jsonl", "2024-02.jsonl"),
    "people": ("amina.txt", "juma.txt", "ali.txt", "ben.txt"),
    "sources": ("wiki.jsonl", "web.jsonl", "news.jsonl", "bible.jsonl"),
    "short words": ("how_to.txt", "how_so.txt", "how_it.txt"),
    "forms": ("qa.jsonl", "chat.jsonl", "sum.jsonl"),
    "tasks in folders": ("ner/a.txt", "pos/a.txt", "mt/a.txt", "qa/a.txt"),
}


@pytest.mark.parametrize("names", UNDIVIDED.values(), ids=list(UNDIVIDED))
@pytest.mark.parametrize("tag", ["sw", "hi", "zh-Hans"])
def test_files_that_are_not_divided_by_language_are_all_read(
    names: tuple[str, ...], tag: str
) -> None:
    choice = choose_language_files(names, tag=tag)
    assert (choice.mine, choice.others) == (names, ())


def test_a_census_counts_what_is_not_read_by_kind_with_size_and_names() -> None:
    files = [
        NamedFile("a.jsonl", 10),
        NamedFile("b.jsonl.bz2", 10),
        NamedFile("c.jsonl.xz", 10),
        NamedFile("d.JSONL", 10),
        NamedFile("e.tsv", 10),
        NamedFile("f.jsonl.part", 2048),
        NamedFile("README.md", 10),
        NamedFile("_SUCCESS", 0),
        NamedFile("g.jsonl", 0),
        *(NamedFile(f"{n}.png", 1024) for n in range(1200)),
    ]
    census = take_census(files, splits=("train",), tag="sw")
    assert census.read == ("a.jsonl", "b.jsonl.bz2", "c.jsonl.xz", "d.JSONL", "e.tsv")
    assert census.describe() == (
        (
            "1,201 files (1.2 MiB) are not read because of a form that is not supported: 0.png, 1.png,"
            " 10.png, 1,198 more [1,200 .png, 1 .part]."
        ),
        "1 file is empty: g.jsonl.",
    )


NAMES = st.lists(
    st.text(
        alphabet=string.ascii_letters + string.digits + "._-/ é\u202e\n", min_size=1, max_size=30
    ),
    max_size=12,
    unique=True,
)


@given(names=NAMES, size=st.integers(0, 10**12), tag=st.sampled_from(["sw", "und", "zh-Hant"]))
def test_no_file_is_lost_from_the_census(names: list[str], size: int, tag: str) -> None:
    files = [NamedFile(name, size) for name in names]
    census = take_census(files, splits=("train",), tag=tag)
    assert sorted(file.name for file, _ in census.files) == sorted(names)
    reported = census.describe()
    unread = {role for _, role in census.files} - {FileRole.READ, FileRole.NOT_DATA}
    assert len(reported) == len(unread)
    assert all(sentence.isprintable() for sentence in reported)
