"""The pure half of the GPU suite: rows, documents, speeds, verdicts and tables."""

from dataclasses import replace

import pytest

from tests.bench.gpu.corpus import END_ID, build_corpus, write_text
from tests.bench.gpu.jobs import Job, Measured
from tests.bench.gpu.memory_fit import read_points
from tests.bench.gpu.results import Result, build_rows, build_speed, build_table
from tests.bench.gpu.shapes import LLAMA_1B, LLAMA_8B, estimate_mfu
from tests.bench.gpu.suite import ATTENTION, OWN_8B, STOCK_8B, SUITES, EngineName

STOCK = Measured(
    step_ends=(10.0, 18.0, 26.0, 34.0),
    step_tokens=(100, 100, 100, 100),
    losses=(12.0, 11.0, 10.0, 9.0),
    peak_bytes=25 * 2**30,
)
OURS = Measured(
    step_ends=(20.0, 21.0, 22.0, 24.0, 25.0),
    step_tokens=(100, 100, 100, 400, 100),
    losses=(12.01, 11.01, 10.01, 9.01, 8.0),
    peak_bytes=50 * 2**30,
    predicted_bytes=51 * 2**30,
)


def tell(ours: Measured, row=OWN_8B):
    results = [Result(STOCK_8B, STOCK), Result(row, ours)]
    return build_rows(results, card="NVIDIA H100 80GB HBM3")[1]


def test_rows_of_a_suite_have_names_of_their_own():
    for suite in SUITES.values():
        assert len({row.name for row in suite}) == len(suite)


def test_rows_of_one_shape_take_steps_of_the_same_documents():
    for suite in SUITES.values():
        alone = [row for row in suite if row.gpus == 1]
        batches = {(row.shape.name, row.batch, row.longest, row.mean) for row in alone}
        assert len({name for name, *_ in batches}) == len(batches)


def test_two_gpus_do_the_steps_of_one_and_steps_of_twice_as_many_documents():
    [larger, same] = [row for row in SUITES["full"] if row.gpus == 2]
    assert same.is_twin_of(OWN_8B)
    assert same.is_twin_of(STOCK_8B)
    assert (same.accumulation * 2, same.batch) == (OWN_8B.accumulation, OWN_8B.batch)
    assert (larger.accumulation, larger.batch) == (OWN_8B.accumulation, 2 * OWN_8B.batch)
    # There are documents for one GPU's longest row.
    assert larger.steps * larger.batch == OWN_8B.steps * OWN_8B.batch


@pytest.mark.parametrize(
    ("shape", "weights"), [(LLAMA_8B, 7_504_658_432), (LLAMA_1B, 1_235_746_816)], ids=["8B", "1B"]
)
def test_weights_that_are_multiplied_are_counted_with_the_head_and_without_the_embedding(
    shape, weights
):
    assert shape.linear_weights == weights


def test_the_share_of_the_peak_follows_the_formula():
    assert estimate_mfu(LLAMA_8B, tokens_per_s=17_202, card="NVIDIA H100") == pytest.approx(
        0.522, abs=1e-3
    )
    assert estimate_mfu(LLAMA_8B, tokens_per_s=17_202, card="Some GPU") is None


def test_documents_have_the_mean_length_that_is_asked_for_and_end_once():
    corpus = build_corpus(4000, vocabulary=128_256, longest=2048)
    lengths = [len(each) for each in corpus.documents]
    assert sum(lengths) / len(lengths) == pytest.approx(400, rel=0.05)
    assert max(lengths) == 2048
    assert all(each[-1] == END_ID and END_ID not in each[:-1] for each in corpus.documents)
    assert corpus == build_corpus(4000, vocabulary=128_256, longest=2048)


def test_a_text_names_its_tokens():
    assert write_text((3, 70, 1023)) == "w3 w70 w1023"


def test_a_job_crosses_as_json(tmp_path):
    job = Job(
        row=replace(OWN_8B, targets=ATTENTION, dropout=0.1),
        model=tmp_path / "model",
        folder=tmp_path,
        corpus_steps=24,
        device="cuda",
        work=tmp_path / "work",
        started=1.5,
    )
    assert Job.load(job.save(tmp_path / "job.json")) == job


def test_what_was_measured_crosses_as_json():
    assert Measured.from_dict(OURS.to_dict()) == OURS


def test_speed_is_taken_after_the_warm_up_alone():
    assert build_speed(OWN_8B, OURS) == {
        "tok_s": 150.0,
        "step_p50_s": 1.0,
        "step_p95_s": 2.0,
        "setup_s": 20.0,
    }


def test_a_loss_is_told_after_as_many_steps_as_all_twins_did():
    row = tell(OURS)
    assert (row["loss"], row["loss_after_steps"], row["void"]) == (10.01, 4, "")


def test_a_row_that_learns_otherwise_than_stock_is_void():
    worse = replace(OURS, losses=(12.0, 11.5, 10.5, 9.5, 9.0))
    assert tell(worse)["void"] == "loss 10.5000, stock TRL's 10.0000: more than 1.0% apart"


def test_a_row_that_begins_with_another_loss_is_void_whatever_its_adapter():
    other = replace(OURS, losses=(12.2, *OURS.losses[1:]))
    row = tell(other, row=replace(OWN_8B, dropout=0.1))
    assert row["void"] == "first loss 12.2000, stock TRL's 12.0000: more than 0.5% apart"


def test_a_loss_that_is_no_number_is_void():
    assert tell(replace(OURS, losses=(float("nan"),) * 5))["void"] != ""


def test_a_row_without_a_twin_is_compared_in_its_first_loss_alone():
    learned_less = replace(OURS, losses=(12.0, 11.9, 11.8, 11.7, 11.6))
    row = tell(learned_less, row=replace(OWN_8B, targets=ATTENTION))
    assert (row["void"], row["loss_after_steps"]) == ("", 5)


def test_four_bit_weights_may_begin_a_little_beside_the_others():
    begins_beside = replace(OURS, losses=(12.2, *OURS.losses[1:]))
    assert tell(begins_beside, row=replace(OWN_8B, method="QLoRA"))["void"] == ""


def test_the_table_tells_speeds_failures_and_what_is_void():
    unsloth = replace(STOCK_8B, engine=EngineName.UNSLOTH)
    results = [
        Result(STOCK_8B, STOCK),
        Result(OWN_8B, OURS),
        Result(unsloth, replace(STOCK, losses=(12.0, 20.0, 20.0, 20.0))),
        Result(replace(OWN_8B, dropout=0.1), None, failure="exit code 67: too large"),
    ]
    assert build_table(build_rows(results, card="NVIDIA H100")).splitlines()[2:] == [
        "| 8B | trl | LoRA, all linear, 0 | 12 | 0.0% | 25.0 | 8.000 / 8.000 | 10 | 10.000 (4) |",
        "| 8B | language-finetune | LoRA, all linear, 0 | 150 | 0.5% | 50.0 | 1.000 / 2.000 | 20 | 10.010 (4) |",
        "| 8B | unsloth | LoRA, all linear, 0 | void: loss 20.0000, stock TRL's 10.0000: more than 1.0% apart | | | | | |",
        "| 8B | language-finetune | LoRA, all linear, 0.1 | not measured: exit code 67: too large | | | | | |",
    ]


def test_the_memory_of_a_row_is_predicted_for_its_largest_micro_batch():
    choices = ("engine fused: It may.", "tokensPerMicroBatch 300: So many.", "layersKept 32: All.")
    results = [Result(OWN_8B, replace(OURS, choices=choices))]
    rows = build_rows(results, card="NVIDIA H100")
    point, *_ = read_points({"rows": rows})
    assert (point.engine, point.tokens, point.layers_kept) == ("fused", 200, 32)
    assert point.observed_bytes == 50 * 2**30
    assert point.predicted_bytes / 2**30 == pytest.approx(17.6, abs=0.1)


def test_a_step_that_fits_a_micro_batch_may_be_larger_than_each_half_of_the_largest_step():
    choices = ("engine fused: It may.", "tokensPerMicroBatch 300: So many.", "layersKept 32: All.")
    ours = replace(OURS, choices=choices, step_tokens=(100, 100, 290, 400, 100))
    [point] = read_points({"rows": build_rows([Result(OWN_8B, ours)], card="NVIDIA H100")})
    assert point.tokens == 290


def test_the_memory_points_of_an_extra_are_compared_where_something_was_observed():
    reported = {
        "shape": "1B",
        "method": "QLoRA",
        "rank": 16,
        "targets": list(ATTENTION),
        "dropout": 0.1,
        "engine": "unsloth",
        "layers_kept": 16,
        "tokens": 8192,
        "reserved_bytes": 10 * 2**30,
    }
    extra = {"points": [reported, reported | {"reserved_bytes": None}]}
    points = list(read_points({"rows": [], "memory-1B": extra}))
    assert [point.what for point in points] == ["QLoRA r 16, q,k,v,o, dropout 0.1"]
