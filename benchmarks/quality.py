"""The quality benchmark: every task x method x probe on the same stored tokens.

    python benchmarks/quality.py [--data DIR] [--tasks ncrna13,chess] [--methods onevec]
    python benchmarks/quality.py --quick             # from the clone alone, some minutes
    python benchmarks/quality.py --baselines         # for a new version of the protocol: hours
    python benchmarks/quality.py --rebuild-encoders  # make the encoders again, then stop
    python benchmarks/quality.py --check             # how far three cells lie from the files

Data come from --data, else $ONEVEC_DATA. Results are cached under .cache by what decides them, so
a run that was stopped goes on, and parts made by --tasks and --methods merge. Labels score; they
fit nothing but the upper bound. Writes benchmarks/results/quality.json (the mean and onevec), and
the tables and the figure made from it. Baselines, peers and the bound are read from
benchmarks/results/baselines-v1.json, which --baselines made once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from protocol import check, encoders, methods, report, runner, tasks

SHIPPED_DATA = Path(__file__).parent / "data"
QUICK_ROWS = ("chess", "omniglot", "gesture", "ucr_uea", "banking77")
QUICK_BASELINES = (
    *("plain", "trivial", "borep", "attention_probe"),
    *("coles", "bert_whitening", "swe", "pyg_multi"),
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (else $ONEVEC_DATA)")
    parser.add_argument("--tasks", help=f"rows, comma-separated: {', '.join(tasks.ROWS)}")
    parser.add_argument("--methods", help="producers, comma-separated (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of one thread")
    parser.add_argument("--quick", action="store_true", help="shipped data, fewer items and fits")
    parser.add_argument(
        "--budget", type=float, help="seconds of one core that a peer trains (60; quick 5)"
    )
    parser.add_argument(
        "--rebuild-encoders", nargs="?", const="", metavar="NAMES", help="make encoders, then stop"
    )
    parser.add_argument("--baselines", action="store_true", help="baselines, peers and the bound")
    parser.add_argument("--check", action="store_true", help="recompute three cells and report")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/quality.json")
    return parser.parse_args(arguments)


def known(text: str | None, names: list[str], what: str) -> list[str]:
    wanted = names if not text else [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in names:
            raise SystemExit(f"there is no {what} {name!r}: choose from {', '.join(names)}")
    return wanted


def main() -> None:
    args = parse()
    named = args.data or os.environ.get("ONEVEC_DATA")
    data = Path(named) if named and not (args.quick and args.data is None) else SHIPPED_DATA
    if not named and not args.quick and not args.check:
        raise SystemExit("no data: pass --data DIR or set ONEVEC_DATA; --quick needs none")
    if args.rebuild_encoders is not None:
        encoders.rebuild(known(args.rebuild_encoders, list(encoders.PRETRAINED), "encoder"), data)
        return
    settings = runner.Settings(data, args.quick, args.budget or (5.0 if args.quick else 60.0))
    frozen = report.baselines_file(args.quick)
    if args.check:
        paths = (frozen, args.out or results_file(args.quick))
        check.check([found for path in paths if (found := report.read(path))], settings)
        return
    out = args.out or (frozen if args.baselines else results_file(args.quick))
    if args.baselines and _complete(report.read(out)):
        raise SystemExit(
            f"{out} is complete, and is read, not made again: a change of the protocol is a new "
            "version (protocol.report.PROTOCOL)"
        )
    names = [name for name in methods.producers() if (name in methods.OURS) != args.baselines]
    if args.quick and args.baselines:
        names = [name for name in names if name in QUICK_BASELINES]
    all_rows = list(QUICK_ROWS if args.quick else tasks.ROWS)
    wanted = known(args.methods, names, "method")
    rows = known(args.tasks, all_rows, "task")
    if not args.dry_run:
        runner.fill_stores(rows, settings, args.jobs)
    whole, left_out = runner.plan(all_rows, names, settings)
    for row, encoder, why in left_out:
        if row in rows:
            print(f"left out: {row} {encoder}: {why}", file=sys.stderr)
    jobs = [job for job in whole if job.row in rows and job.producer in wanted]
    missing = [job for job in jobs if not runner.settled(job)]
    print(f"{len(jobs)} fits, {len(jobs) - len(missing)} of them cached", flush=True)
    if args.dry_run:
        return
    work(missing, settings, args.jobs)
    # Everything that is there goes into the file, whatever part this run did.
    result = report.collect(whole, left_out, settings)
    if args.baselines:
        result["encoders"] = report.encoder_facts()
        report.write(result, out)
    else:
        report.write(result, out)
        baselines = report.read(frozen)
        report.write_pages(result, baselines, out)
        print(report.at_a_glance(report.with_baselines(result, baselines)))
    print(f"{out}: {len(result['tasks'])} tasks")


def _complete(found: dict[str, Any] | None) -> bool:
    return found is not None and not (found["fits"]["waiting"] or found["left_out"])


def results_file(quick: bool) -> Path:
    return report.RESULTS / ("quick.json" if quick else "quality.json")


def work(missing: list[runner.Job], settings: runner.Settings, workers: int) -> None:
    began = time.perf_counter()
    for done, (job, seconds, error) in enumerate(runner.run(missing, settings, workers), 1):
        spent = time.perf_counter() - began
        left = spent / done * (len(missing) - done)
        line = f"[{done}/{len(missing)}, {left / 60:.0f} min left] {job.unit} {job.encoder}"
        print(
            f"{line} {job.producer} {job.seed}: {seconds:.0f} s{' ' + error if error else ''}",
            flush=True,
        )


if __name__ == "__main__":
    main()
