"""Run each model in a process of its own, with a time limit, and merge the records into one JSON file."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.zoo.entry import Entry

Record = dict[str, Any]


@dataclass
class _Job:
    entry: Entry
    process: BaseProcess
    answer: Path
    start: float


def run_all(
    entries: Sequence[Entry], jobs: int, timeout: float, dry: bool, report: Callable[[Record], None]
) -> None:
    """Measure `entries`, at most `jobs` at a time, calling `report` with each record as it comes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.zoo.preload"])
    waiting = list(reversed(entries))
    running: list[_Job] = []
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < jobs:
                entry = waiting.pop()
                answer = Path(folder) / f"{entry.suite}-{entry.name}.json"
                process = context.Process(target=_work, args=(entry.key, dry, str(answer)))
                process.start()
                running.append(_Job(entry, process, answer, time.monotonic()))
            time.sleep(0.05)
            for job in list(running):
                record = _outcome(job, timeout)
                if record is not None:
                    running.remove(job)
                    report(record)


def _outcome(job: _Job, timeout: float) -> Record | None:
    base = {"key": job.entry.key, "suite": job.entry.suite, "name": job.entry.name}
    wall = round(time.monotonic() - job.start, 2)
    if job.process.is_alive():
        if wall < timeout:
            return None
        job.process.kill()
        job.process.join()
        return {**base, "status": "timeout", "wall": wall, "error": f"no answer after {timeout:g} s"}
    job.process.join()
    if job.answer.exists():
        return {**json.loads(job.answer.read_text()), "wall": wall}
    return {**base, "status": "crashed", "wall": wall, "error": f"exit code {job.process.exitcode}"}


def _work(key: str, dry: bool, answer: str) -> None:
    import torch

    from benchmarks.zoo.measure import measure
    from benchmarks.zoo.suites import find

    torch.set_num_threads(int(os.environ.get("ZOO_THREADS", "1")))
    record = measure(find(key), dry)
    partial = Path(answer + ".part")
    partial.write_text(json.dumps(record))
    partial.replace(answer)


def load(path: Path) -> dict[str, Record]:
    """The records of earlier runs, by key."""
    if not path.exists():
        return {}
    return {record["key"]: record for record in json.loads(path.read_text())}


def add(path: Path, record: Record) -> None:
    """Write one record into the file, which other runs may be adding to as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = load(path)
        records[record["key"]] = record
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps([records[key] for key in sorted(records)], indent=1) + "\n")
        partial.replace(path)
