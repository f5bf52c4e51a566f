"""The formulas of Measure, by their published vectors: F1 to F3, F8 to F12 and the type-token ratio."""

from pathlib import Path

import numpy as np
import pytest

from finetune_text.survey.mojibake import find_mojibake
from finetune_text.survey.near_duplicates import NearDuplicates, shingle
from finetune_text.survey.row_store import nearest_rank
from finetune_text.survey.scripts import classify, code_of, scripts_of_tag
from finetune_text.survey.words import (
    MovingTypeTokenRatio,
    code_mixing_index,
    code_points,
    find_words,
    fold,
)
from tests.unit_text.texts import build_word_tokenizer, measure, write_rows


def hashes(text: str) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return find_words(code_points(fold(text))).hashes


# --- F1 to F3 -----------------------------------------------------------------------------------


def test_tokens_characters_bytes_and_words_give_fertility_and_density(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"text": "één twee drie"}, {"text": "w w w w"}])
    profile = measure(file, tag="nl", tokenizer=build_word_tokenizer()).profile
    # One row is held out: what is left is either of the two.
    expected = {13: (3, 15), 7: (4, 7)}[profile.characters]
    assert (profile.text_tokens, profile.text_bytes) == expected
    assert profile.words == 7
    assert profile.characters_per_token == profile.characters / expected[0]
    assert profile.bytes_per_token == profile.text_bytes / expected[0]


def test_a_combining_mark_is_part_of_its_word_and_punctuation_divides() -> None:
    assert len(hashes("नमस्ते, दुनिया! क्या-हाल l’eau")) == 6


def test_the_same_word_has_the_same_hash_wherever_it_stands() -> None:
    first, _, third = hashes("Maji ni MAJI.")
    assert first == third
    assert len(set(hashes("maji ijam majim maj").tolist())) == 4


# --- F8 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Habari  ya\tasubuhi\n", "habari ya asubuhi"),
        ("caf\u00e9", "cafe\u0301"),
        ("STRASSE", "straße"),
    ],
    ids=["blanks and case", "normal form", "casefold"],
)
def test_exact_duplicates_are_equal_when_folded(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_a_joiner_is_not_folded_away() -> None:
    assert fold("می\u200cخواهم") != fold("میخواهم")


# --- F9 -----------------------------------------------------------------------------------------


def words(*numbers: int) -> list[str]:
    return [f"neno{number}" for number in numbers]


@pytest.mark.parametrize(
    ("changed", "is_near"),
    [(1, True), (2, True), (5, False), (12, False)],
    ids=["Jaccard 0.95", "0.90", "0.77", "0.53"],
)
def test_near_duplicates_share_four_fifths_of_their_shingles(changed: int, is_near: bool) -> None:
    text = words(*range(200))
    other = [
        f"x{place}" if place % 16 == 3 and place // 16 < changed else word
        for place, word in enumerate(text)
    ]
    near = NearDuplicates()
    near.add(0, shingle(hashes(" ".join(text)), width=5))
    near.add(1, shingle(hashes(" ".join(other)), width=5))
    found = near.find(np.ones(2, dtype=np.bool_))
    assert [(each.text, each.earlier) for each in found] == ([(1, 0)] if is_near else [])


def test_the_order_of_words_counts() -> None:
    near = NearDuplicates()
    text = words(*range(60))
    near.add(0, shingle(hashes(" ".join(text)), width=5))
    near.add(1, shingle(hashes(" ".join(reversed(text))), width=5))
    assert list(near.find(np.ones(2, dtype=np.bool_))) == []


def test_a_text_shorter_than_a_shingle_is_one_shingle() -> None:
    assert len(shingle(hashes("maji ni uhai"), width=5)) == 1


# --- F10 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "index"),
    [((10,), 0), ((6, 4), 40), ((5, 5), 50), ((8, 2), 20), ((), 0)],
    ids=["one language", "6 and 4", "half and half", "8 and 2 beside 2 neutral", "only neutral"],
)
def test_the_code_mixing_index_is_that_of_its_vectors(
    counts: tuple[int, ...], index: float
) -> None:
    assert code_mixing_index(counts) == pytest.approx(index)


@pytest.mark.parametrize(
    ("tag", "text", "index"),
    [
        ("hi", "मुझे यह movie बहुत पसंद है and you", 100 * 3 / 8),
        ("hi", "मुझे 12 यह 2024", 0),
        ("ja", "これは漢字とカタカナのテキスト", 0),
        ("ko", "한국어 漢字 한국어", 0),
        ("sw", "habari ya dunia", 0),
    ],
    ids=[
        "Hindi with English",
        "digits are neutral",
        "three scripts of Japanese",
        "Hanja",
        "Swahili",
    ],
)
def test_code_mixing_is_seen_by_the_scripts_of_words(
    tmp_path: Path, tag: str, text: str, index: float
) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"text": text}])
    assert measure(file, tag=tag).profile.code_mixing_index == pytest.approx(index, abs=1e-3)


# --- F11 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("hi", {"Deva"}),
        ("hi-Latn", {"Latn"}),
        ("ja", {"Hani", "Hira", "Kana"}),
        ("zh-Hant", {"Hani"}),
        ("ko", {"Hang", "Hani"}),
        ("ur", {"Arab"}),
        ("und", set()),
        ("und-Deva", {"Deva"}),
        ("x-mine", set()),
        ("qaa", set()),
    ],
)
def test_a_tag_tells_its_scripts(tag: str, expected: set[str]) -> None:
    assert scripts_of_tag(tag) == expected


def test_characters_are_of_the_script_that_unicode_says() -> None:
    text = "aяअ漢あカ한αאกአ\u0301\u0640ー。１"
    classes = [code_of(int(each)) if each > 1 else "" for each in classify(code_points(text))]
    assert (
        classes
        == ["Latn", "Cyrl", "Deva", "Hani", "Hira", "Kana", "Hang", "Grek", "Hebr", "Thai", "Ethi"]
        + [""] * 5
    )


def test_the_share_of_the_tags_script_counts_letters_alone(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"text": "नमस abc 123 !!"}])
    report = measure(file, tag="hi")
    assert report.profile.script_share == 0.5
    assert report.letters == {"Deva": 3, "Latn": 3}


# --- F12 ----------------------------------------------------------------------------------------

LENGTHS = [120] * 90 + [400] * 8 + [1500] * 2


def test_percentiles_are_nearest_ranks_and_the_losses_those_of_the_vector(tmp_path: Path) -> None:
    rows = [{"text": " ".join(["w"] * length)} for length in LENGTHS]
    held_out = write_rows(tmp_path / "v.jsonl", [{"text": "w w"}])
    file = write_rows(tmp_path / "a.jsonl", rows)
    report = measure(file, tokenizer=build_word_tokenizer(), validation=(held_out,))
    profile = report.profile
    assert (profile.p50, profile.p95, profile.p99, profile.longest) == (120, 400, 1500, 1500)
    assert profile.truncated == (2, 2, 0, 0, 0)
    at_512 = next(one for one in report.lengths if one.length == 512)
    assert at_512.truncated / profile.examples == 0.02
    assert at_512.lost_tokens / profile.tokens == pytest.approx(0.116, abs=0.0005)


@pytest.mark.parametrize(("percent", "expected"), [(50, 2), (75, 3), (76, 4), (100, 4)])
def test_a_nearest_rank_is_a_length_that_occurs(percent: int, expected: int) -> None:
    assert nearest_rank([1, 2, 3, 4], percent) == expected


# --- MATTR --------------------------------------------------------------------------------------


def test_the_ratio_is_the_mean_over_every_window() -> None:
    ratio = MovingTypeTokenRatio(window=3)
    ratio.add(hashes("a b c a a a"))
    # abc 3, bca 3, caa 2, aaa 1 of 3 each.
    assert ratio.ratio == pytest.approx((3 + 3 + 2 + 1) / 4 / 3)


def test_the_ratio_goes_on_over_rows_and_is_unknown_without_a_whole_window() -> None:
    whole, parts = MovingTypeTokenRatio(window=4), MovingTypeTokenRatio(window=4)
    whole.add(hashes("a b c d a b"))
    for part in ("a b", "c d a", "b"):
        parts.add(hashes(part))
    assert parts.ratio == whole.ratio
    assert MovingTypeTokenRatio().ratio is None


# --- Mojibake -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("cafÃ© noir", "holds 'Ã©' at character 4, which is 'é' read with the wrong encoding"),
        ("â€œndiyoâ€", "holds 'â€œ' at character 1, which is '“' read with the wrong encoding"),
        (
            "РїСЂРёРІРµС‚",
            "holds 'РїСЂРёРІРµС‚' at character 1, which is 'привет' read with the wrong encoding",
        ),
        ("à¤¨à¤®", "holds 'à¤¨' at character 1, which is 'न' read with the wrong encoding"),
        ("ÅŸeker", "holds 'ÅŸ' at character 1, which is 'ş' read with the wrong encoding"),
        ("fa\ufffdade", "holds U+FFFD at character 3: text was lost"),
        ("a\x00b", "holds U+0000 at character 2: text was lost"),
    ],
    ids=["Latin-1", "quotes", "Cyrillic", "Hindi", "Turkish", "replacement character", "NUL"],
)
def test_wrong_decoding_is_reported_with_what_was_meant(text: str, reported: str) -> None:
    assert find_mojibake(text) == reported


@pytest.mark.parametrize(
    "text",
    [
        "l’été\u00a0» et «\u00a0là\u00a0»",
        "São Paulo, MANHÃ\u00a0, «Ã»",
        "Größe „x“ ‘Ä’ — naïve…",
        "nº 5 à 3°, 5 €",
        "Рік пройшов. Сі",
        "می\u200cخواهم",
        "क्\u200dष e\u0301",
        "日本語\u3000テキスト",
        "riika almmolaš áššiid, oažžut vánhurskkis",
        "a\tb\r\nc",
    ],
    ids=[
        "French",
        "Portuguese",
        "German",
        "signs",
        "Ukrainian",
        "joiner",
        "marks",
        "Japanese",
        "Sámi",
        "blanks",
    ],
)
def test_ordinary_text_is_never_called_wrong(text: str) -> None:
    assert find_mojibake(text) is None
