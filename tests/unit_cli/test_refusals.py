"""What the CLI refuses, in whole messages: YAML's traps, old arguments, shapes, rules, files."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic_core import ErrorDetails
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.inputs.field_names import ENUM_SYNONYMS, GONE, RENAMED, field_paths
from finetune_cli.inputs.wording import allowed_words, word_problem

RUNNER = CliRunner()
NO_JSON = (
    "spec cannot be written as JSON: it holds .inf, .nan, a key or value that is neither text, number "
    "nor boolean, an alias of itself, or aliases that unfold to more than 3,145,728 characters."
)
YAML_WORDS = "YAML reads yes, no, on and off without quotes as true and false"

LAUGHS = (
    "[&a [x, x, x, x, x, x, x, x, x, x]"
    + "".join(
        f", &{letter} [{', '.join(['*' + before] * 10)}]"
        for before, letter in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]"
)
"""A short text whose aliases unfold to a billion words."""

RESOURCE = """\
apiVersion: langops.dev/v1alpha1
kind: LanguageFinetune
metadata: {{name: demo}}
spec:
  model: {model}
  languages:
  - tag: {tag}
    traits: {traits}
    dataset: {dataset}
  parameters: {parameters}
  output: {output}
  {more}
"""
GOOD = {
    "model": "{uri: hf://org/model}",
    "tag": "sw",
    "traits": "{}",
    "dataset": "{uri: s3://corpora/sw/}",
    "parameters": "{}",
    "output": "{uri: s3://adapters/}",
    "more": "",
}


def problems_of(text):
    result = RUNNER.invoke(app, ["validate", "-f", "-"], input=text)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    prefix = "stdin: LanguageFinetune demo: "
    return [line.removeprefix(prefix) for line in result.stderr.splitlines()]


def refuse(**written):
    return problems_of(RESOURCE.format(**GOOD | written))


def accept(**written):
    result = RUNNER.invoke(app, ["validate", "-f", "-"], input=RESOURCE.format(**GOOD | written))
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"tag": "no"},
            f'spec.languages[0].tag is false: {YAML_WORDS}; quote it ("no"), or write nb or nn.',
        ),
        ({"tag": "on"}, f"spec.languages[0].tag is true: {YAML_WORDS}; quote it."),
        (
            {"parameters": "{evalStrategy: no}"},
            (
                "spec.parameters.evalStrategy is false, expected Never, Steps or Epoch; did you mean "
                "Never?"
            ),
        ),
        (
            {"model": "{uri: hf://org/model, revision: 12345e67}"},
            'spec.model.revision is 1.2345e+71, a number, expected text; quote it: "1.2345e+71".',
        ),
        (
            {"model": "{uri: hf://org/model, revision: 1234567}"},
            'spec.model.revision is 1234567, a number, expected text; quote it: "1234567".',
        ),
        (
            {"traits": '{codeSwitching: "yes"}'},
            'spec.languages[0].traits.codeSwitching is "yes", expected true or false without quotes.',
        ),
        ({"parameters": "{learningRate: .nan}"}, NO_JSON),
        ({"more": "image: &a [*a]"}, NO_JSON),
        ({"more": "image: " + LAUGHS}, NO_JSON),
    ],
    ids=["no", "on", "strategy", "exponent", "digits", "quoted-yes", "nan", "loop", "laughs"],
)
def test_yaml_trap_is_refused_with_its_remedy(written, message):
    assert refuse(**written) == [message]


@pytest.mark.parametrize("rate", ["2e-4", "2E-4", "2.0e-4", "0.0002", "2e-04"])
def test_a_rate_with_an_exponent_is_a_number_as_for_kubectl(rate):
    accept(parameters=f"{{learningRate: {rate}}}")


@pytest.mark.parametrize("rank", ["8", "8.0", "0x8", "010", "0o10", "0b1000", "1_0", "+8"])
def test_whole_numbers_are_read_as_kubectl_reads_them(rank):
    accept(parameters=f"{{lora: {{r: {rank}}}}}")


@pytest.mark.parametrize("tag", ['"no"', "nb", "'sw'"])
def test_a_quoted_tag_is_text(tag):
    accept(tag=tag)


@pytest.mark.parametrize("text", ["12:30", "2026-01-01", "1e", "0x", "v1.0"])
def test_text_that_pyyaml_would_convert_stays_text(text):
    accept(model=f"{{uri: hf://org/model, revision: {text}}}")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("max_seq_length", "write maxSeqLength"),
        ("max_length", "write spec.parameters.maxSeqLength"),
        ("evaluation_strategy", "write spec.parameters.evalStrategy"),
        ("warmup_ratio", "write warmupRatio"),
        ("per_device_train_batch_size", "write perDeviceTrainBatchSize"),
        ("lora_alpha", "write spec.parameters.lora.alpha"),
        ("use_flash_attention", "write spec.parameters.flashAttention"),
        ("tokenizer", "the tokenizer comes with the model; remove it"),
        ("load_in_4bit", "write spec.method: QLoRA instead"),
        ("r", "write it as spec.parameters.lora.r"),
        ("lora_r", "write spec.parameters.lora.r"),
        ("fp16", "the number format is chosen by the GPU; remove it"),
        ("learningRte", "did you mean learningRate?"),
    ],
)
def test_an_argument_of_another_tool_is_refused_with_todays_field(name, remedy):
    end = "" if remedy.endswith("?") else "."
    assert refuse(parameters=f"{{{name}: 1}}") == [
        f"spec.parameters.{name} is not a field; {remedy}{end}"
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("learningRate: 1", "write it as spec.parameters.learningRate."),
        ("base_model: x", "write spec.model.uri."),
        ("lora: {r: 8}", "write it as spec.parameters.lora."),
        (
            "wholly_unknown: 1",
            (
                "expected one of model, languages, multilingual, stage, method, policy, parameters, "
                "resources, scheduling, output, checkpoints, mode, suspend, updatePolicy, "
                "activeDeadlineSeconds, deadlinePolicy, backoffLimit, ttlSecondsAfterFinished, image."
            ),
        ),
    ],
)
def test_a_field_in_the_wrong_place_is_sent_to_the_right_one(more, message):
    assert refuse(more=more) == [f"spec.{more.split(':')[0]} is not a field; {message}"]


@pytest.mark.parametrize("path", [*RENAMED.values()])
def test_todays_fields_exist(path):
    assert path in {known for paths in field_paths().values() for known in paths}


def test_no_name_is_both_renamed_and_gone():
    assert RENAMED.keys() & GONE.keys() == set()


def test_synonyms_stand_for_words_that_exist():
    words = {word for paths in field_paths().values() for path in paths for word in words_at(path)}
    assert ENUM_SYNONYMS.keys() - words == set()


def words_at(path):
    return allowed_words(tuple(path.replace("[]", "").split(".")[1:]))


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        (
            "{corpus: Huge}",
            'corpus is "Huge", expected Small, Medium or Large; did you mean Large?',
        ),
        (
            "{corpus: massive}",
            'corpus is "massive", expected Small, Medium or Large; did you mean Large?',
        ),
        (
            "{corpus: High}",
            'corpus is "High", expected Small, Medium or Large; did you mean Large?',
        ),
        (
            "{corpus: large}",
            'corpus is "large", expected Small, Medium or Large; did you mean Large?',
        ),
        (
            "{corpus: Lrge}",
            'corpus is "Lrge", expected Small, Medium or Large; did you mean Large?',
        ),
        ("{corpus: 3}", "corpus is 3, expected Small, Medium or Large; write one of these."),
        (
            "{corpus: blue}",
            'corpus is "blue", expected Small, Medium or Large; write one of these.',
        ),
        (
            "{morphology: Complexe}",
            'morphology is "Complexe", expected Simple or Complex; did you mean Complex?',
        ),
        (
            "{resourceLevel: rare}",
            'resourceLevel is "rare", expected Low or High; did you mean Low?',
        ),
        (
            "{tokenDensity: heavy}",
            'tokenDensity is "heavy", expected Light or Dense; did you mean Dense?',
        ),
    ],
)
def test_a_synonym_is_refused_with_the_word_that_is_meant(traits, message):
    assert refuse(traits=traits) == [f"spec.languages[0].traits.{message}"]


@pytest.mark.parametrize(
    ("written", "messages"),
    [
        ({"model": "{}"}, ["spec.model.uri is missing; add it (Where the model is)."]),
        (
            {"model": "hf://org/model"},
            [
                'spec.model is "hf://org/model", expected fields below it with uri, revision, secretRef, trustRemoteCode, depth.'
            ],
        ),
        (
            {"parameters": '{seed: "3"}'},
            ['spec.parameters.seed is "3", a text, expected a number; write it without quotes.'],
        ),
        ({"parameters": "{seed: three}"}, ['spec.parameters.seed is "three", expected a number.']),
        ({"parameters": "{seed: 1.5}"}, ["spec.parameters.seed is 1.5, expected a whole number."]),
        (
            {"parameters": "{maxSteps: -1}"},
            [
                "spec.parameters.maxSteps is -1, expected at least 1; leave it out to train by epochs."
            ],
        ),
        ({"parameters": "{lora: {r: 0}}"}, ["spec.parameters.lora.r is 0, expected at least 1."]),
        (
            {"parameters": "{learningRate: 0}"},
            ["spec.parameters.learningRate is 0, expected more than 0."],
        ),
        (
            {"parameters": "{lora: {dropout: 1}}"},
            ["spec.parameters.lora.dropout is 1, expected at most 0.9."],
        ),
        (
            {"parameters": "{warmupRatio: 1}"},
            ["spec.parameters.warmupRatio is 1, expected less than 1."],
        ),
        (
            {"parameters": "{lora: {targetModules: q_proj}}"},
            [
                'spec.parameters.lora.targetModules is "q_proj", expected a list; write each item on a line that begins with -.'
            ],
        ),
        (
            {"parameters": "{lora: {targetModules: []}}"},
            ["spec.parameters.lora.targetModules has 0 items, expected at least 1 items."],
        ),
        (
            {"tag": "sw_KE"},
            [
                'spec.languages[0].tag is "sw_KE", expected letters, digits and hyphens as in BCP 47, such as sw, zh-Hans or pa-Arab.'
            ],
        ),
        ({"tag": "s"}, ['spec.languages[0].tag is "s", expected at least 2 characters.']),
        (
            {"more": "resources: {gpuMemory: 80GB}"},
            ['spec.resources.gpuMemory is "80GB", expected a quantity such as 80Gi.'],
        ),
        (
            {"more": "scheduling: {queueName: A_B}"},
            [
                'spec.scheduling.queueName is "A_B", expected a Kubernetes name: small letters, digits, hyphens and dots.'
            ],
        ),
        (
            {"more": "scheduling: {nodeSelector: x}"},
            ['spec.scheduling.nodeSelector is "x", expected fields below it.'],
        ),
        (
            {"more": "scheduling: {tolerations: [{operator: exists}]}"},
            [
                'spec.scheduling.tolerations[0].operator is "exists", expected Exists or Equal; did you mean Exists?'
            ],
        ),
        (
            {"output": "{}", "tag": "a_b"},
            [
                'spec.languages[0].tag is "a_b", expected letters, digits and hyphens as in BCP 47, such as sw, zh-Hans or pa-Arab.',
                "spec.output.uri is missing; add it (s3://bucket/prefix; the adapter goes to <uri>/<namespace>/<name>/runs/<run>-<plan>/).",
            ],
        ),
        (
            {"tag": "[sw]"},
            ['spec.languages[0].tag is ["sw"], expected text; write one word or sentence.'],
        ),
    ],
)
def test_a_wrong_shape_is_told_in_our_words(written, messages):
    assert refuse(**written) == messages


@pytest.mark.parametrize("path", [(), ("nothing",), ("languages", 0, "nothing", "below")])
def test_a_path_that_does_not_exist_has_no_words(path):
    assert allowed_words(path) == []


def test_a_rule_of_the_api_server_is_asked_offline():
    assert refuse(parameters="{numTrainEpochs: 1, maxSteps: 10}")[0].startswith("spec.parameters: ")


def test_a_tag_that_is_no_language_is_refused_with_what_is_near():
    assert refuse(tag="swa-hili") == [
        (
            'Language tag "swa-hili" is not a language, expected a BCP 47 tag such as sw, zh-Hans or '
            "pa-Arab; did you mean sw? Correct the tag, or write und and declare the traits."
        )
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("v1alpha1", "v1"),
            'apiVersion is "langops.dev/v1", expected langops.dev/v1alpha1; correct it.',
        ),
        (("spec:", "sepc:"), "sepc is not a field; did you mean spec?"),
        (
            ("metadata:", "lora_alpha: 16\nmetadata:"),
            "lora_alpha is not a field; write spec.parameters.lora.alpha.",
        ),
    ],
)
def test_a_wrong_envelope_is_told(change, message):
    assert problems_of(RESOURCE.format(**GOOD).replace(*change))[0] == message


@pytest.mark.parametrize(
    ("metadata", "name", "reported"),
    [
        ("{}", "without a name", "is missing"),
        ("{name: A_b}", "A_b", 'is "A_b"'),
        ("{name: a..b}", "a..b", 'is "a..b"'),
    ],
)
def test_a_name_that_the_api_server_refuses_is_refused(metadata, name, reported):
    text = RESOURCE.format(**GOOD).replace("{name: demo}", metadata)
    result = RUNNER.invoke(app, ["validate", "-f", "-"], input=text)
    assert (result.exit_code, result.stderr) == (
        2,
        (
            f"stdin: LanguageFinetune {name}: metadata.name {reported}, expected small letters, digits, "
            "hyphens and dots, at most 253.\n"
        ),
    )


def test_a_generated_name_needs_no_name():
    text = RESOURCE.format(**GOOD).replace("{name: demo}", "{generateName: demo-}")
    assert RUNNER.invoke(app, ["validate", "-f", "-"], input=text).exit_code == 0


@pytest.mark.parametrize(
    ("spec", "reported"), [("", "is missing"), ("spec: 3", "is 3")], ids=["missing", "number"]
)
def test_a_resource_without_a_spec_is_refused(spec, reported):
    text = f"apiVersion: langops.dev/v1alpha1\nkind: LanguageFinetune\nmetadata: {{name: demo}}\n{spec}\n"
    assert problems_of(text) == [f"spec {reported}, expected at least model, languages and output."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no object in it"),
        ("kind: Pod\n---\nkind: Job\n---\nfoo: 1\n", "found Job, Pod, an object without kind"),
        ("- 1\n", "there is no object in it"),
    ],
)
def test_a_file_without_our_kind_says_what_it_holds(text, message):
    result = RUNNER.invoke(app, ["explain", "-f", "-"], input=text)
    assert (result.exit_code, result.stderr) == (
        2,
        (
            f"stdin holds no LanguageFinetune: {message}; expected a document with apiVersion "
            "langops.dev/v1alpha1 and kind LanguageFinetune.\n"
        ),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1, column 6: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\na: 2\n", 'line 2, column 1: the key "a" stands twice'),
        ("? [a]\n: b\n", "line 1, column 3: a key is a list or a mapping, and must be text"),
        ("? {a: b}\n: c\n", "line 1, column 3: a key is a list or a mapping, and must be text"),
        ("a: 0x_\n", "line 1, column 4: 0x_ cannot be read as a number"),
        ("a: !!float b\n", "line 1, column 4: b cannot be read as a number"),
        (f"a: {'9' * 5000}\n", f"line 1, column 4: {'9' * 30}… cannot be read as a number"),
        (
            'a: "\\ud83d"\n',
            "line 1, column 4: the text holds half of a character (\\ud800 to \\udfff)",
        ),
        (
            "a: !!python/object:os.x {}\n",
            "line 1, column 4: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.x'",
        ),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(text, message):
    result = RUNNER.invoke(app, ["explain", "-f", "-"], input=text)
    assert (result.exit_code, result.stderr) == (
        2,
        f"stdin is not valid YAML: {message}; correct it.\n",
    )


def test_a_control_character_is_refused():
    result = RUNNER.invoke(app, ["explain", "-f", "-"], input="a: \x07")
    assert (result.exit_code, result.stderr) == (
        2,
        (
            "stdin is not valid YAML: unacceptable character #x0007: special characters are not allowed "
            '  in "<unicode string>", position 3; correct it.\n'
        ),
    )


def test_metadata_that_is_no_mapping_is_refused():
    text = RESOURCE.format(**GOOD).replace("{name: demo}", "demo")
    result = RUNNER.invoke(app, ["validate", "-f", "-"], input=text)
    assert result.stderr.startswith(
        "stdin: LanguageFinetune without a name: metadata.name is missing"
    )


def test_a_complaint_without_words_of_ours_keeps_its_own():
    error: ErrorDetails = {
        "type": "new_kind",
        "loc": ("mode",),
        "msg": "Something new",
        "input": 3,
        "ctx": {},
    }
    assert word_problem(error) == "spec.mode is 3: something new."


def test_a_check_of_the_models_own_keeps_its_words():
    error: ErrorDetails = {
        "type": "value_error",
        "loc": ("mode",),
        "msg": "Value error, is odd.",
        "input": 3,
    }
    assert word_problem(error) == "spec.mode is odd."


def test_a_file_that_is_not_there_is_named(tmp_path):
    result = RUNNER.invoke(app, ["validate", "-f", str(tmp_path / "no.yaml")])
    assert (result.exit_code, result.stderr) == (
        2,
        f"{tmp_path}/no.yaml cannot be read: no such file or directory; check the path.\n",
    )


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = Path(tmp_path / "latin.yaml")
    path.write_bytes(b"a: \xe9")
    result = RUNNER.invoke(app, ["validate", "-f", str(path)])
    assert (result.exit_code, result.stderr) == (
        2,
        f"{path} is not UTF-8 at byte 3; save it as UTF-8 and try again.\n",
    )


def test_a_file_of_data_is_refused_unread(tmp_path):
    path = Path(tmp_path / "data.jsonl")
    path.write_bytes(b"x" * 4_000_000)
    result = RUNNER.invoke(app, ["validate", "-f", str(path)])
    assert (result.exit_code, result.stderr) == (
        2,
        (
            f"{path} has more than 3,145,728 bytes, which no resource has; pass the resource and not its "
            "data.\n"
        ),
    )


def test_an_endless_file_is_read_no_further_than_a_resource_goes():
    result = RUNNER.invoke(app, ["explain", "-f", "/dev/zero"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("/dev/zero has more than 3,145,728 bytes")


def test_two_resources_of_one_name_are_told_apart():
    text = "---\n".join([RESOURCE.format(**GOOD)] * 2)
    assert problems_of(text) == ["stands twice; give each a name of its own."]


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_full_disk_is_told_in_a_sentence(form, tmp_path):
    path = tmp_path / "resource.yaml"
    path.write_text(RESOURCE.format(**GOOD))
    command = [sys.executable, "-m", "finetune_cli", "explain", "-f", str(path), "-o", form]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 1
    assert ended.stderr == b"The result cannot be written: No space left on device.\n"


def test_problems_of_all_resources_are_told_at_once():
    text = "---\n".join(RESOURCE.format(**GOOD | {"tag": tag}) for tag in ("a_b", "sw", "c_d"))
    assert len(problems_of(text)) == 2


def test_a_wrong_option_is_a_usage_error():
    assert RUNNER.invoke(app, ["explain", "-o", "xml", "-f", "x"]).exit_code == 2


@pytest.mark.parametrize(
    ("metadata", "whose", "reported"),
    [
        (
            "{name: demo, namespace: 5}",
            "demo",
            "namespace is 5, expected small letters, digits and",
        ),
        ("{name: demo, namespace: a.b}", "a.b/demo", 'namespace is "a.b", expected small letters,'),
        ("{name: demo, labels: [a]}", "demo", 'labels is ["a"], expected names with texts.'),
        ("{name: demo, labels: {a: yes}}", "demo", "labels.a is true, expected text; quote it."),
        (
            "{name: demo, annotations: {a: 1}}",
            "demo",
            "annotations.a is 1, expected text; quote it.",
        ),
        ("{name: &n [*n]}", "without a name", "name is a list that JSON cannot hold, expected"),
        ("{name: " + LAUGHS + "}", "without a name", "name is "),
    ],
    ids=["number", "dots", "list", "boolean", "annotation", "loop", "laughs"],
)
def test_metadata_that_the_api_server_refuses_is_refused(metadata, whose, reported):
    text = RESOURCE.format(**GOOD).replace("{name: demo}", metadata)
    result = RUNNER.invoke(app, ["validate", "-f", "-"], input=text)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"stdin: LanguageFinetune {whose}: metadata.{reported}")
    assert len(result.stderr) < 300


def test_a_bound_is_told_to_the_last_digit():
    assert refuse(parameters="{seed: 2147483648}") == [
        "spec.parameters.seed is 2147483648, expected at most 2147483647."
    ]
