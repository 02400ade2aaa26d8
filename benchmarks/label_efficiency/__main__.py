"""Run what is missing of a study, and print and store the table of what is there."""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks import label_efficiency as package
from benchmarks import measure
from benchmarks.label_efficiency import frames
from benchmarks.label_efficiency.records import Records
from benchmarks.label_efficiency.runs import Workplace, missing, run_job
from benchmarks.label_efficiency.studies import STUDIES, Job, waves
from benchmarks.label_efficiency.table import markdown, table
from simipu_core.errors import SimipuError
from simipu_core.files import write_file


def run(place: Workplace, *, data: str | None, deadline: float, processes: int) -> list[str]:
    """Work through the waves until all is there or the time is up.

    Args:
        place: the study and its folders.
        data: folder of real frames; None renders.
        deadline: in seconds of `time.time`; what has begun by then is completed, nothing else begins.
        processes: jobs side by side, one thread each.

    Returns:
        What failed, in words; the other jobs are done nevertheless.
    """
    failed: list[str] = []
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=measure.single_thread) as pool:
        try:
            for wave in waves(place.study):
                jobs = [job for job in wave if missing(place.records, job)]
                if jobs and time.time() < deadline:
                    frames.prepare(place.study, frames.needed(place.study, jobs), place.frames, data)
                    failed += _run_wave(place, jobs, deadline, pool)
        except BaseException:  # what is under way writes its checkpoint
            pool.shutdown(wait=False, cancel_futures=True)
            while children := multiprocessing.active_children():  # one may have been handed a further job
                for process in children:
                    process.terminate()
                    process.join(1)
            raise
    return failed


def _run_wave(place: Workplace, jobs: list[Job], deadline: float, pool: ProcessPoolExecutor) -> list[str]:
    failed: list[str] = []
    under_way = {pool.submit(run_job, place, job, deadline): job for job in jobs}
    for done in as_completed(under_way):
        job = under_way[done]
        name = f"{', '.join(row.name for row in job.rows)}, seed {job.seed}"
        try:
            left = done.result()
        except SimipuError as error:
            failed.append(f"{name}: {error}")
        else:
            print(f"{name}: {f'{left} cells left' if left else 'done'}", flush=True)
    return failed


def show(records: Records) -> None:
    """Print the table and store it beside the cells."""
    found = table(records)
    write_file(records.folder / "table.json", (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    print(markdown(found, records.study))
    if outdated := records.outdated():
        print(f"\n{outdated} files are of other recipes than today's and left out.")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.label_efficiency",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--data", help="folder of real frames, for `real`")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    parser.add_argument("--processes", type=int, default=2, help="jobs side by side, one thread each")
    parser.add_argument("--table", action="store_true", help="only print and store the table of what is there")
    arguments = parser.parse_args()
    if arguments.study == "real" and not (arguments.data or arguments.table):
        parser.error("name the folder of real frames: --data FOLDER")
    folder = Path(__file__).parents[1] / "results" / "label_efficiency" / arguments.study
    place = Workplace(STUDIES[arguments.study], Path("build/label_efficiency"), folder)
    deadline = time.time() + 60 * arguments.minutes
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failed = (
            [] if arguments.table else run(place, data=arguments.data, deadline=deadline, processes=arguments.processes)
        )
        show(place.records)
    except SimipuError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from there")
    if failed:
        sys.exit("\n".join(["failed:", *failed]))


if __name__ == "__main__":
    main()
