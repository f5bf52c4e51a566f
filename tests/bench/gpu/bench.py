"""The course of a suite: models are made, rows and extras are spread over the GPUs, results are kept.

Started by `run`. Each GPU has a thread that takes the next task and starts a process for it; nothing
is computed here. What a task shows is written at once.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.gpu.extras import EXTRAS, Extra
from tests.bench.gpu.jobs import Job, Measured
from tests.bench.gpu.machine import (
    CPU,
    build_environ,
    find_cards,
    find_commit,
    find_versions,
    start_python,
    start_store,
)
from tests.bench.gpu.own import CLAIM, RowFailedError, run_own
from tests.bench.gpu.results import Result, build_rows, build_table
from tests.bench.gpu.shapes import MFU_FORMULA, Shape
from tests.bench.gpu.suite import SUITES, EngineName, Row

Task = Callable[[int | None], None]


@dataclass(frozen=True)
class Options:
    """What the command was given."""

    suite: str
    only: str
    out: Path
    scratch: Path
    time_limit_s: float
    gpus: int
    """GPUs at most; 0 is all of the machine."""
    command: str
    curves: Path | None = None
    """Folder with plain PEFT's curves of an earlier run, by the name of the extra that drew them."""


@dataclass
class Bench:
    """One suite on one machine."""

    options: Options
    cards: list[str] = field(default_factory=find_cards)
    results: list[Result] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _making: dict[str, threading.Lock] = field(default_factory=dict)
    _over: dict[str, threading.Event] = field(default_factory=dict)

    def run(self) -> int:
        """Run everything; return 0 where no task failed."""
        if not self.cards and self.options.suite != "dry":
            print("This machine has no GPU (nvidia-smi): only --suite dry runs here.")
            return 2
        shutil.rmtree(self.options.scratch, ignore_errors=True)
        self.options.out.mkdir(parents=True, exist_ok=True)
        store = start_store(self.options.scratch / "s3")
        try:
            alone, apart = self.build_tasks(store.endpoint)
            # First, because some of the others read what they leave.
            for task in alone:
                task(0 if self.cards else None)
            self.spread(apart)
        finally:
            store.kill()
            shutil.rmtree(self.options.scratch, ignore_errors=True)
        print((self.options.out / "table.md").read_text())
        failed = [each for each in self.results if each.measured is None]
        return 1 if failed or any("failure" in each for each in self.extras.values()) else 0

    @property
    def usable(self) -> int:
        """GPUs that may be used at once; 0 where there is none."""
        return min(len(self.cards), self.options.gpus or len(self.cards))

    def build_tasks(self, endpoint: str) -> tuple[list[Task], list[Task]]:
        """Return what has the machine to itself, and what runs beside others; each is given its first GPU.

        Rows for more GPUs than may be used are left out.
        """
        only, suite = self.options.only, self.options.suite
        fitting = [row for row in SUITES[suite] if row.gpus <= max(1, self.usable)]
        rows = [row for row in fitting if re.search(only, row.name)]
        extras = [each for each in EXTRAS[suite] if re.search(only, each.name)]
        wanted = [each for each in extras if each.after is None or each.after in rows]
        shapes = {row.shape for row in rows}.union(*(set(each.shapes) for each in wanted))
        self._making = {shape.name: threading.Lock() for shape in shapes}
        self._over = {row.name: threading.Event() for row in rows}

        def measure(row: Row) -> Task:
            return lambda gpu: self.measure(row, gpu, endpoint=endpoint)

        def add(extra: Extra) -> Task:
            return lambda gpu: self.add_extra(extra, gpu, endpoint=endpoint)

        alone = [measure(row) for row in rows if row.needs_machine]
        apart = [measure(row) for row in rows if not row.needs_machine]
        return alone, [*apart, *map(add, wanted)]

    def spread(self, tasks: Sequence[Task]) -> None:
        """Run the tasks, one at a time on each GPU."""
        waiting = iter(tasks)
        taking = threading.Lock()

        def work(gpu: int | None) -> None:
            while True:
                with taking:
                    task = next(waiting, None)
                if task is None:
                    return
                task(gpu)

        gpus: list[int | None] = list(range(self.usable)) or [None]
        with ThreadPoolExecutor(len(gpus)) as pool:
            # What a thread raises is raised here, when the others have done their tasks.
            list(pool.map(work, gpus))

    # --- One task -------------------------------------------------------------------------------

    def measure(self, row: Row, gpu: int | None, *, endpoint: str) -> None:
        """Run one row and keep what it showed."""
        measured, failure = None, ""
        try:
            self.check_time()
            measured = self._run_row(row, gpu, endpoint=endpoint)
        except RowFailedError as fault:
            failure = str(fault)
        finally:
            self._over[row.name].set()
        self.keep(Result(row, measured, failure=failure, gpu=gpu or 0))

    def _run_row(self, row: Row, gpu: int | None, *, endpoint: str) -> Measured:
        environ = build_environ(gpu, scratch=self.options.scratch, gpus=row.gpus)
        model = self.make_model(row.shape, gpu)
        folder = self.options.scratch / row.name
        folder.mkdir()
        documents = max(
            each.steps * each.batch
            for each in SUITES[self.options.suite]
            if each.shape == row.shape
        )
        job = Job(
            row=row,
            model=model,
            folder=folder,
            # The same documents for all rows of a shape, in steps of whatever size.
            corpus_steps=documents // row.batch,
            device=CPU.lower() if gpu is None else "cuda",
            work=self.options.scratch / f"work-{gpu or 0}",
            started=time.monotonic(),
        )
        log = self.options.out / f"{row.name}.log"
        if row.engine is EngineName.OWN:
            return run_own(job, endpoint=endpoint, environ=environ, log=log)
        answer = folder / "measured.json"
        arguments = [str(job.save(folder / "job.json")), str(answer)]
        code = start_python("tests.bench.gpu.stock", arguments, environ=environ, log=log)
        if code or not answer.exists():
            raise RowFailedError(f"exit code {code}: {log.read_text()[-600:]}")
        return Measured.from_dict(json.loads(answer.read_text()))

    def add_extra(self, extra: Extra, gpu: int | None, *, endpoint: str) -> None:
        """Run what is no row, and keep its JSON."""
        try:
            self.check_time()
            found = self._run_extra(extra, gpu, endpoint=endpoint)
        except RowFailedError as fault:
            found = {"failure": str(fault)}
        with self._writing:
            self.extras[extra.name] = found
            self.write()
        print(f"{self.elapsed():7.1f} s  {extra.name}: {found.get('failure', 'done')}", flush=True)

    def _run_extra(self, extra: Extra, gpu: int | None, *, endpoint: str) -> dict[str, Any]:
        needed = [str(self.make_model(shape, gpu)) for shape in extra.shapes]
        if extra.after is not None:
            # On another GPU it may still be under way.
            self._over[extra.after.name].wait()
            needed.append(str(self.options.scratch / extra.after.name / "outcome.json"))
        answer = self.options.scratch / f"{extra.name}.json"
        log = self.options.out / f"{extra.name}.log"
        arguments = [CPU.lower() if gpu is None else "cuda", str(answer), *needed]
        if self.options.curves and (known := self.options.curves / f"{extra.name}.json").exists():
            arguments.append(str(known))
        environ = build_environ(gpu, scratch=self.options.scratch) | {"BENCH_S3": endpoint}
        code = start_python(extra.module, arguments, environ=environ, log=log)
        if code or not answer.exists():
            return {"failure": f"exit code {code}: {log.read_text()[-600:]}"}
        found: dict[str, Any] = json.loads(answer.read_text())
        return found

    def make_model(self, shape: Shape, gpu: int | None) -> Path:
        """Return the folder of a model, made once by whichever task needs it first."""
        folder = self.options.scratch / "claims" / CLAIM / shape.name
        with self._making[shape.name]:
            log = self.options.out / f"make-{shape.name}.log"
            device = CPU.lower() if gpu is None else "cuda"
            environ = build_environ(gpu, scratch=self.options.scratch)
            arguments = [shape.name, str(folder), device]
            if not folder.exists() and start_python(
                "tests.bench.gpu.model_folder", arguments, environ=environ, log=log
            ):
                raise RowFailedError(f"{shape.name} was not made: {log.read_text()[-600:]}")
        return folder

    # --- Results --------------------------------------------------------------------------------

    def keep(self, result: Result) -> None:
        """Add one row's result and write all of them."""
        with self._writing:
            self.results.append(result)
            rows = self.write()
        line = build_table(rows[-1:]).splitlines()[-1]
        print(f"{self.elapsed():7.1f} s  {line}", flush=True)

    def write(self) -> list[dict[str, Any]]:
        """Write results.json and table.md; return the rows."""
        card = ", ".join(sorted(set(self.cards))) or CPU
        rows = build_rows(self.results, card=card)
        found = {
            "card": card,
            "gpus": self.options.gpus or len(self.cards),
            "versions": find_versions(),
            "commit": find_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.options.command,
            "mfu_formula": MFU_FORMULA,
            "rows": rows,
            **self.extras,
        }
        (self.options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        (self.options.out / "table.md").write_text(f"{build_table(rows)}\n{MFU_FORMULA}\n")
        return rows

    def elapsed(self) -> float:
        """Return the seconds since the suite began."""
        return time.monotonic() - self.started

    def check_time(self) -> None:
        """See that a further task may begin.

        Raises:
            RowFailedError: The time limit was reached.
        """
        limit = self.options.time_limit_s
        if limit and self.elapsed() > limit:
            raise RowFailedError(f"the time limit of {limit:g} s was reached")
