"""Which parameters teach a small model more: policy Evidence, policy Guide, or peers' defaults.

    python -m tests.bench.outcomes --results docs/outcomes.json [--languages swh tur fin] [--variants Evidence …]

The real SmolLM2-135M-Instruct learns real text (the Universal Declaration of Human Rights, a chat a
paragraph, with --rows the shortest ones) on this machine's CPU through the trainer's own entry point, once for each language and
variant, all with the same number of epochs and the same seed. Every eighth paragraph is seen by
no model; its bits per byte are measured afterwards in plain PEFT, and beside them those of English text
that nothing was trained on: what was forgotten. Parameters are the resolver's own, from what
`finetune_text` measured; a peer's defaults are overrides of policy Guide.

Results are written after every run, and runs that the file already holds are not repeated.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from finetune_api import wire
from finetune_api.outcome import Outcome
from finetune_api.plan import PlannedDataset, TrainingPlan
from finetune_api.profile import Profile, find_context, pick_config_facts
from finetune_api.resource import LanguageFinetune
from finetune_operator.decide.plan.build_plan import build_plan
from finetune_resolver import build_measurements, resolve
from finetune_text.measure import LanguageText, build_sequencer, measure_language
from finetune_text.survey.lengths import build_profiles
from finetune_text.tokenization.tokenizer import load_fast_tokenizer, load_json
from finetune_text.tokenization.tokenizer_facts import describe_tokenizer
from tests.demo.materials import MODEL_ID, load_corpus, load_model_folder
from tests.demo.verdict import load_chats, measure_answers
from tests.unit_trainer.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedFS

EPOCHS = 3
"""Of every run; what each variant itself would take is no part of the comparison."""
SEED = 3407
TAGS = {"swh": "sw", "tur": "tr", "fin": "fi", "spa": "es", "hin": "hi"}
ENGLISH = "eng"
BUCKET = "adapters"
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Variant:
    """One way to choose parameters."""

    policy: str
    parameters: dict[str, Any]
    """Overrides; none where the policy alone decides."""
    source: str


def _peer(*, source: str, rank: int, alpha: int, targets: list[str], **others: Any) -> Variant:
    lora = {"r": rank, "alpha": alpha, "dropout": 0.0, "targetModules": targets, "bias": "None"}
    return Variant("Guide", {"lora": lora, **others}, source)


VARIANTS = {
    "Evidence": Variant("Evidence", {}, "policy Evidence"),
    "Guide": Variant("Guide", {}, "policy Guide"),
    # No warm-up for peers: so few steps would end before it does, which is not what they mean.
    "UnslothStudio": _peer(
        source="defaults of Unsloth Studio",
        rank=16,
        alpha=16,
        targets=ALL_LINEAR,
        learningRate=2e-4,
        weightDecay=0.001,
        batchSize=8,
        perDeviceTrainBatchSize=2,
        gradientAccumulationSteps=4,
        lrScheduler="Linear",
        warmupSteps=0,
    ),
    "TrlPeft": _peer(
        source="defaults of TRL 1.16 and PEFT 0.21",
        rank=8,
        alpha=8,
        targets=["q_proj", "v_proj"],
        learningRate=2e-5,
        weightDecay=0.0,
        batchSize=8,
        perDeviceTrainBatchSize=8,
        gradientAccumulationSteps=1,
        lrScheduler="Linear",
        warmupSteps=0,
    ),
}


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    folder: Path
    model: Path
    store: SeaweedFS

    @property
    def claims(self) -> Path:
        """The folder that stands for mounted claims."""
        return self.folder / "claims"

    def environ(self) -> dict[str, str]:
        """Return the environment of a trainer on this machine."""
        return {
            **os.environ,
            "FINETUNE_OUTPUT_AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "FINETUNE_OUTPUT_AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "FINETUNE_OUTPUT_AWS_ENDPOINT_URL_S3": self.store.endpoint,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            wire.ENV_CLAIM_DIR: str(self.claims),
            wire.ENV_PLAN_PATH: str(self.folder / wire.PLAN_FILE),
            wire.ENV_WORK_DIR: str(self.folder / "work"),
            wire.ENV_TERMINATION_PATH: str(self.folder / "outcome.json"),
        }

    def client(self) -> Any:
        """Return a client of the store."""
        return boto3.client(
            "s3",
            endpoint_url=self.store.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )


# --- From a text to a plan ----------------------------------------------------------------------


def build_resource(language: str, variant: Variant, *, name: str) -> LanguageFinetune:
    """Return the resource of one run."""
    parameters = {"numTrainEpochs": EPOCHS, "seed": SEED, "evalStrategy": "Epoch"}
    return LanguageFinetune.model_validate(
        {
            "apiVersion": wire.API_VERSION,
            "kind": wire.KIND,
            "metadata": {"name": name, "namespace": "bench", "uid": name},
            "spec": {
                "model": {"uri": "pvc://models/smollm2"},
                "languages": [
                    {"tag": TAGS[language], "dataset": {"uri": f"pvc://text/{language}.jsonl"}}
                ],
                "policy": variant.policy,
                "method": "LoRA",
                "parameters": parameters | {"saveStrategy": "Epoch"} | variant.parameters,
                "resources": {"gpus": 0},
                "output": {"uri": f"s3://{BUCKET}", "secretRef": {"name": "output"}},
            },
        }
    )


@dataclass(frozen=True)
class _File:
    path: Path
    source: str


def measure_text(bench: Bench, resource: LanguageFinetune, file: Path) -> Profile:
    """Return what the Measure pod would say of the text."""
    tokenizer = load_fast_tokenizer(bench.model, source=MODEL_ID)
    language = resource.spec.languages[0]
    sequencer = build_sequencer(
        tokenizer,
        generation=load_json(bench.model / "generation_config.json"),
        completion_only=True,
    )
    dataset = PlannedDataset(tag=language.tag, uri=language.dataset.uri)
    text = LanguageText(dataset, [_File(file, language.dataset.uri)])
    config = pick_config_facts(load_json(bench.model / "config.json"))
    return Profile(
        tokenizer=describe_tokenizer(tokenizer.backend, bench.model),
        model=config,
        languages=build_profiles(
            [measure_language(text, sequencer)], lengths=(find_context(config),)
        ),
    )


def plan_run(bench: Bench, resource: LanguageFinetune, file: Path) -> TrainingPlan:
    """Return the plan that the operator would write."""
    profile = measure_text(bench, resource, file)
    measured = build_measurements(resource.spec, profile)
    return build_plan(resource, resolution=resolve(resource.spec, measured=measured), run=1)


# --- One run ------------------------------------------------------------------------------------


def train(bench: Bench, plan: TrainingPlan) -> tuple[Outcome, float]:
    """Train through the trainer's own entry point; return its outcome and the seconds it took."""
    content = plan.to_json().encode()
    (bench.folder / wire.PLAN_FILE).write_bytes(content)
    environ = bench.environ() | {wire.ENV_PLAN_SHA256: hashlib.sha256(content).hexdigest()}
    started = time.monotonic()
    with (bench.folder / "trainer.log").open("ab") as log:
        command = [sys.executable, "-m", "finetune_trainer"]
        subprocess.run(command, env=environ, stdout=log, stderr=log, check=False)
    outcome = Outcome.from_termination_message((bench.folder / "outcome.json").read_text())
    if outcome is None or outcome.published is None:
        raise SystemExit(f"The run ended otherwise: {outcome.message if outcome else 'no outcome'}")
    return outcome, time.monotonic() - started


def download(bench: Bench, uri: str, folder: Path) -> Path:
    """Bring a published adapter from the store."""
    client, prefix = bench.client(), uri.removeprefix(f"s3://{BUCKET}/").rstrip("/") + "/"
    folder.mkdir(parents=True)
    for stored in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
        client.download_file(BUCKET, stored["Key"], str(folder / stored["Key"].rsplit("/", 1)[-1]))
    return folder


Chats = list[dict[str, Any]]
_of_base: dict[str, float] = {}
"""Bits per byte of the base model by language: the same for every run."""


def measure_unseen(
    bench: Bench, adapter: Path, unseen: dict[str, Chats]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return bits per byte of each language's unseen text, of the base model and with the adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    base = AutoModelForCausalLM.from_pretrained(bench.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter).eval()
    after: dict[str, float] = {}
    with torch.inference_mode():
        for language, chats in unseen.items():
            after[language] = measure_answers(model, tokenizer, chats).bits_per_byte
            if language not in _of_base:
                with model.disable_adapter():
                    _of_base[language] = measure_answers(model, tokenizer, chats).bits_per_byte
    return dict(_of_base), after


def write_shortest(source: Path, target: Path, *, rows: int) -> None:
    """Write the shortest rows of a file in their order; all where they are no more."""
    lines = source.read_text(encoding="utf-8").splitlines()
    kept = sorted(sorted(range(len(lines)), key=lambda place: len(lines[place]))[:rows])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(f"{lines[place]}\n" for place in kept), encoding="utf-8")


def run_one(bench: Bench, language: str, name: str, *, rows: int) -> dict[str, Any]:
    """Train one variant on one language and return everything that was measured."""
    variant = VARIANTS[name]
    text = bench.claims / "text" / f"{language}.jsonl"
    write_shortest(load_corpus(language).training, text, rows=rows)
    resource = build_resource(language, variant, name=f"{language}-{name.lower()}")
    plan = plan_run(bench, resource, text)
    outcome, seconds = train(bench, plan)
    assert outcome.published is not None
    assert outcome.summary is not None
    adapter = download(bench, outcome.published.uri, bench.folder / "got" / resource.metadata.name)
    unseen = {language: load_corpus(language).unseen, ENGLISH: load_corpus(ENGLISH).unseen}
    before, after = measure_unseen(
        bench, adapter, {each: load_chats(file) for each, file in unseen.items()}
    )
    return {
        "language": TAGS[language],
        "variant": name,
        "source": variant.source,
        "heldOut": {"base": before[language], "adapter": after[language]},
        "english": {"base": before[ENGLISH], "adapter": after[ENGLISH]},
        "trainedParagraphs": outcome.corpus[0].examples if outcome.corpus else None,
        "steps": outcome.summary.steps,
        "epochs": outcome.summary.epochs,
        "trainableParameters": outcome.summary.trainable_parameters,
        "parameters": {
            "learningRate": plan.training.learning_rate,
            "effectiveBatch": plan.training.sequences_per_step,
            "maxSeqLength": plan.training.max_seq_length,
            "scheduler": plan.training.lr_scheduler.value,
            "weightDecay": plan.training.weight_decay,
            "rank": plan.lora.r,
            "alpha": plan.lora.alpha,
            "dropout": plan.lora.dropout,
            "targetModules": list(plan.lora.target_modules),
        },
        "trainerSeconds": round(seconds, 1),
    }


def put(source: Path, place: Path) -> None:
    """Copy a folder to where a claim would have it; a link would lead out of the claim."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, place)


# --- All of them --------------------------------------------------------------------------------


def print_table(results: list[dict[str, Any]]) -> None:
    """Print the results as Markdown."""
    print(
        "| language | parameters | held-out bits/byte | English bits/byte | steps | r, α, rate, batch |"
    )
    print("|---|---|---|---|---|---|")
    for each in results:
        held_out, english, chosen = each["heldOut"], each["english"], each["parameters"]
        print(
            f"| {each['language']} | {each['variant']}"
            f" | {held_out['base']:.3f} → {held_out['adapter']:.3f}"
            f" | {english['base']:.3f} → {english['adapter']:.3f} | {each['steps']}"
            f" | {chosen['rank']}, {chosen['alpha']}, {chosen['learningRate']:g},"
            f" {chosen['effectiveBatch']} |"
        )


def parse_arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="Compare policies and peers on real text.")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--languages", nargs="+", default=["swh", "tur", "fin"], choices=list(TAGS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rows", type=int, default=1000, help="paragraphs of a language at most")
    parser.add_argument("--minutes", type=float, default=40.0, help="begin no run after these")
    return parser.parse_args()


def main() -> None:
    """Run what is missing and print the table."""
    asked = parse_arguments()
    end = time.monotonic() + 60 * asked.minutes
    results = json.loads(asked.results.read_text()) if asked.results.exists() else []
    done = {(each["language"], each["variant"]) for each in results}
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    # Before torch is imported: threads that spin while they wait starve each other on busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory(prefix="outcomes-") as folder:
        bench = Bench(Path(folder), load_model_folder(), SeaweedFS(Path(folder)))
        bench.store.start()
        try:
            bench.client().create_bucket(Bucket=BUCKET)
            put(bench.model, bench.claims / "models" / "smollm2")
            for name in asked.variants:
                for language in asked.languages:
                    if (TAGS[language], name) in done or time.monotonic() > end:
                        continue
                    results.append(run_one(bench, language, name, rows=asked.rows))
                    asked.results.write_text(json.dumps(results, indent=1) + "\n")
                    print(json.dumps(results[-1]), flush=True)
        finally:
            bench.store.kill()
    order = {name: place for place, name in enumerate(VARIANTS)}
    print_table(sorted(results, key=lambda each: (each["language"], order[each["variant"]])))


if __name__ == "__main__":
    main()
