"""How long one resolution takes, both policies, with nothing and with everything measured.

    python -m tests.bench.resolver_speed [--calls 2000]

Resolves the golden corpora (`tests/cases/corpora`) over and over and prints one table and one line of
JSON. CPU time of this process, in batches: the median is what a call costs here, the best batch what it
costs where nothing else computes. Aim: below 200 µs. A timing never fails a test.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import yaml

from finetune_api.profile import LanguageProfile, Profile, TokenizerProfile, pick_config_facts
from finetune_api.resource import LanguageFinetuneSpec
from finetune_resolver import Measurements, build_measurements, resolve

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ROOT / "tests" / "cases" / "corpora"
MODELS = ROOT / "tests" / "unit_resolver" / "test_memory_models.yaml"
AIM_US = 200
BATCH = 100

Job = tuple[LanguageFinetuneSpec, Measurements | None]


def load_jobs(policy: str, *, measured: bool) -> list[Job]:
    """Return every corpus as a resource with what was measured of it."""
    models = yaml.safe_load(MODELS.read_text(encoding="utf-8"))
    jobs: list[Job] = []
    for path in sorted(CORPORA.glob("*/corpus.yaml")):
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        texts = [LanguageProfile.model_validate(one["profile"]) for one in given["languages"]]
        languages = [
            {"tag": text.tag, "traits": one["traits"], "dataset": {"uri": "s3://corpora/text/"}}
            for text, one in zip(texts, given["languages"], strict=True)
        ]
        fields = {"languages": languages, "output": {"uri": "s3://adapters/"}, "policy": policy}
        spec = LanguageFinetuneSpec.model_validate(given["spec"] | fields)
        profile = Profile(
            tokenizer=TokenizerProfile(sha256="0" * 64, vocabulary=1),
            model=pick_config_facts(models[given["model"]]["config"]),
            languages=tuple(texts),
        )
        jobs.append((spec, build_measurements(spec, profile) if measured else None))
    return jobs


def measure(jobs: list[Job], *, calls: int) -> list[float]:
    """Return microseconds of CPU time a call, one number a batch."""
    for spec, measurements in jobs:
        resolve(spec, measured=measurements)
    batches = []
    for batch in range(max(1, calls // BATCH)):
        start = time.process_time()
        for index in range(BATCH):
            spec, measurements = jobs[(batch * BATCH + index) % len(jobs)]
            resolve(spec, measured=measurements)
        batches.append((time.process_time() - start) / BATCH * 1e6)
    return batches


def main() -> int:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=4000)
    calls = parser.parse_args().calls
    rows = []
    for policy in ("Guide", "Evidence"):
        for measured in (False, True):
            batches = measure(load_jobs(policy, measured=measured), calls=calls)
            rows.append(
                {
                    "policy": policy,
                    "measured": measured,
                    "median_us": round(statistics.median(batches), 1),
                    "best_us": round(min(batches), 1),
                }
            )
    print(f"{'policy':10} {'measured':10} {'median':>10} {'best':>10}   aim {AIM_US} µs a call")
    for row in rows:
        print(
            f"{row['policy']:10} {row['measured']!s:10} {row['median_us']:>7} µs {row['best_us']:>7} µs"
        )
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
