"""When a Measure Job has to run: what is Auto, unknown, measurable, and decides something."""

import pytest

from finetune_resolver import Need, measurement_needs

SET = {"r": 8, "alpha": 16, "dropout": 0.1}


def needs_of(spec_of, **declared):
    return [(need.name, need.tag) for need in measurement_needs(spec_of(**declared))]


def test_the_smallest_resource_waits_for_the_size_of_its_text(spec_of):
    assert measurement_needs(spec_of(tag="sw")) == (
        Need(
            name="corpus",
            tag="sw",
            why="corpus of sw is Auto: how much text this job has is known only once it is counted, and "
            "max_seq_length, r, lora_alpha and lora_dropout follow it.",
        ),
    )


@pytest.mark.parametrize(
    ("declared", "needs"),
    [
        ({"tag": "sw", "corpus": "Small"}, []),
        ({"tag": "hi", "corpus": "Small", "codeSwitching": True}, []),
        ({"tag": "de", "corpus": "Large"}, [("tokenDensity", "de")]),
        ({"tag": "de", "corpus": "Large", "model": "hf://meta-llama/Llama-3.1-8B"}, []),
        ({"tag": "uz", "corpus": "Small"}, [("morphology", "uz")]),
        ({"tag": "uz", "corpus": "Small", "morphology": "Simple"}, []),
        ({"tag": "uz", "corpus": "Small", "codeSwitching": True}, []),
        ({"tag": "th", "corpus": "Small", "tokenDensity": "Dense"}, []),
        (
            {"tag": "und"},
            [("tokenDensity", "und"), ("morphology", "und"), ("corpus", "und")],
        ),
        (
            {"tag": "und", "corpus": "Small", "tokenDensity": "Light", "morphology": "Simple"},
            [],
        ),
    ],
)
def test_a_trait_is_needed_where_no_row_tells_it_and_text_can(spec_of, declared, needs):
    assert needs_of(spec_of, **declared) == needs


def test_nothing_is_measured_for_parameters_that_are_set(spec_of):
    assert needs_of(spec_of, tag="sw", documents="Short", parameters={"lora": SET}) == []
    assert needs_of(spec_of, tag="sw", parameters={"lora": SET}) == [("corpus", "sw")]


def test_a_trait_that_only_the_other_unknown_one_makes_matter_is_needed(spec_of):
    # Decay follows density only in a small corpus, which is unknown itself.
    overridden = {"maxSeqLength": 512, "batchSize": 8, "gradientAccumulationSteps": 1}
    needs = needs_of(spec_of, tag="de", morphology="Simple", parameters=overridden)
    assert needs == [("tokenDensity", "de"), ("corpus", "de")]


def test_every_language_of_a_mixture_is_asked(spec_of):
    text = {"uri": "s3://corpora/text/"}
    languages = [
        {"tag": "sw", "traits": {"corpus": "Small"}, "dataset": text},
        {"tag": "hi", "dataset": text},
    ]
    assert needs_of(spec_of, languages=languages) == [("corpus", "hi")]


def test_mode_plan_always_measures(spec_of):
    assert measurement_needs(spec_of(tag="sw", corpus="Small", mode="Plan")) == (
        Need(name="mode", why="mode is Plan, which always measures the text that it tells of."),
    )


def test_policy_evidence_measures_unless_all_that_it_measures_is_set(spec_of):
    assert measurement_needs(spec_of(tag="sw", corpus="Small", policy="Evidence")) == (
        Need(
            name="policy",
            why="policy is Evidence, which decides max_seq_length, batch_size, num_train_epochs, "
            "evaluation_strategy, r and lora_dropout from the text's lengths and counts.",
        ),
    )
    everything = {
        "maxSeqLength": 512,
        "numTrainEpochs": 2,
        "batchSize": 4,
        "evalStrategy": "Steps",
        "lora": {"r": 8, "dropout": 0.0},
    }
    assert needs_of(spec_of, tag="sw", policy="Evidence", parameters=everything) == []


@pytest.mark.parametrize(
    ("declared", "needs"),
    [
        ({"resources": {"gpuMemory": "80Gi"}}, [("gpuMemory", "")]),
        ({"resources": {"gpuMemory": "80Gi", "gpus": 0}}, []),
        (
            {"resources": {"gpuMemory": "80Gi"}, "gpuMemoryClass": "Ample"},
            [("gpuMemory", "")],
        ),
        (
            {"resources": {"gpuMemory": "80Gi"}, "gpuMemoryClass": "Ample", "method": "LoRA"},
            [],
        ),
        ({"method": "Auto"}, []),
    ],
)
def test_known_gpu_memory_needs_the_models_config(spec_of, declared, needs):
    assert needs_of(spec_of, tag="sw", corpus="Small", **declared) == needs
