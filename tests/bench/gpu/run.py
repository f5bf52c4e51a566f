"""Measures LoRA training on this machine's GPUs: stock TRL, stock Unsloth and this trainer, side by side.

    python tests/bench/gpu/run.py --suite small|full|dry [--out FOLDER] [--scratch FOLDER]

Needs no network. Every row is a process of its own on one GPU; rows are spread over the GPUs of the
machine. Writes results.json and table.md below --out after every row, so that a machine that is
taken away leaves what it measured. README.md beside this file tells how to bring the wheels along.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def main() -> int:
    """Read the arguments and run the suite."""
    # As a script Python knows only this folder; the processes that it starts need the rest too.
    sys.path[:0] = [str(ROOT / part) for part in (".", "operator", "trainer-image")]
    from tests.bench.gpu.bench import Bench, Options
    from tests.bench.gpu.suite import SUITES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument("--only", default="", help="rows and extras whose name holds this pattern")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"))
    parser.add_argument("--scratch", type=Path, default=Path("/dev/shm/bench-gpu"))
    parser.add_argument("--gpus", type=int, default=0, help="how many to use at once; 0 is all")
    parser.add_argument("--time-limit", type=float, default=0, help="seconds; 0 is no limit")
    parser.add_argument("--curves", type=Path, help="a folder with curves of an earlier run")
    chosen = parser.parse_args()
    options = Options(
        suite=chosen.suite,
        only=chosen.only,
        out=chosen.out.resolve(),
        scratch=chosen.scratch.resolve(),
        time_limit_s=chosen.time_limit,
        gpus=chosen.gpus,
        curves=chosen.curves and chosen.curves.resolve(),
        command=" ".join(["python", "tests/bench/gpu/run.py", *sys.argv[1:]]),
    )
    return Bench(options).run()


if __name__ == "__main__":
    sys.exit(main())
