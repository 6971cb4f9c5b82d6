"""The quality benchmark: every task x method x probe x seed on the same stored tokens.

    python benchmarks/quality.py [--data DIR] [--tasks ncrna13,chess] [--methods plain,onevec_quick]
    python benchmarks/quality.py --quick            # from the clone alone, some minutes
    python benchmarks/quality.py --rebuild-encoders  # make the encoders again, then stop
    python benchmarks/quality.py --check            # recompute three cells of quality.json

Data come from --data, else $ONEVEC_DATA. Every result is kept under .cache by its content hash, so
a run that was stopped goes on, and parts made by --tasks and --methods merge; so do the results in
benchmarks/results/kept, which a whole run writes and git holds. Labels score; they fit nothing but
the upper bounds. Writes benchmarks/results/quality.json, and the tables and figures made from it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from protocol import check, encoders, methods, report, runner, tasks

SHIPPED_DATA = Path(__file__).parent / "data"
QUICK_ROWS = ("chess", "omniglot", "gesture", "ucr_uea", "banking77")
QUICK_METHODS = (
    *("plain", "trivial", "borep", "candidates", "defaults", "judgement"),
    *("onevec_quick", "attention_probe"),
)
QUICK_PEERS = ("coles", "bert_whitening", "swe", "pyg_multi")


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
    parser.add_argument("--check", action="store_true", help="recompute three cells and compare")
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
    out = args.out or report.RESULTS / ("quick.json" if args.quick else "quality.json")
    settings = runner.Settings(data, args.quick, args.budget or (5.0 if args.quick else 60.0))
    if args.check:
        check.check(out, settings)
        return
    # Learned heads have a table of their own: learned.py.
    everything = [n for n, each in methods.producers().items() if each.family != "learned"]
    all_rows = list(tasks.ROWS)
    if args.quick:
        everything = [name for name in everything if name in QUICK_METHODS + QUICK_PEERS]
        all_rows = list(QUICK_ROWS)
    wanted = known(args.methods, everything, "method")
    rows = known(args.tasks, all_rows, "task")
    if not args.dry_run:
        runner.fill_stores(rows, settings, args.jobs)
    whole, left_out = runner.plan(all_rows, everything, settings)
    for row, encoder, why in left_out:
        if row in rows:
            print(f"left out: {row} {encoder}: {why}", file=sys.stderr)
    jobs = [job for job in whole if job.row in rows and job.producer in wanted]
    missing = [job for job in jobs if not runner.settled(job)]
    print(f"{len(jobs)} fits, {len(jobs) - len(missing)} of them kept from before", flush=True)
    if args.dry_run:
        return
    work(missing, settings, args.jobs)
    if not args.quick:
        runner.shelve(whole, settings)
    # Everything that is there goes into the file, whatever part this run was told to do.
    result = report.collect(whole, left_out, settings)
    report.write(result, out)
    print(report.at_a_glance(result))
    print(f"{out}: {len(result['tasks'])} tasks")


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
