"""Prune every model of the zoo by half: `python -m benchmarks.zoo --suite hf --only llama --jobs 2`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # before torch is imported, here or in a worker
    os.environ.setdefault(variable, "1")

from benchmarks.zoo import report, runner  # noqa: E402
from benchmarks.zoo.suites import SUITES, select  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Parse the command line, run, and write `benchmarks/results/zoo.json` and `docs/benchmarks/zoo.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--only", help="regular expression on suite/name")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, one thread each")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one model")
    parser.add_argument("--resume", action="store_true", help="skip models that have passed already")
    parser.add_argument("--dry", action="store_true", help="build and run the models, prune nothing")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/zoo.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmarks/zoo.md")
    options = parser.parse_args()

    records = runner.load(options.results)
    entries = select(options.suite, options.only)
    if options.resume:
        entries = [e for e in entries if records.get(e.key, {}).get("status") not in ("ok", "dry")]
    seen = []

    def report_one(record: runner.Record) -> None:
        print(report.line(record), flush=True)
        seen.append(record)
        if not options.dry:
            runner.add(options.results, record)

    runner.run_all(entries, options.jobs, options.timeout, options.dry, report_one)
    if options.dry:
        print(f"{sum(r['status'] == 'dry' for r in seen)} of {len(seen)} models build and run")
        return
    records = runner.load(options.results)
    report.write_page(options.page, [records[key] for key in sorted(records)])
    report.show(records[entry.key] for entry in entries)


if __name__ == "__main__":
    main()
