"""``python -m benchmarks.gpu``: run parts of the agenda; see the package."""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import benchmarks.gpu as package

os.environ.setdefault("OMP_NUM_THREADS", "1")

PARTS = ("correctness", "throughput", "kernels", "loading", "row")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them by default")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the findings"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="of each part, at most")
    parser.add_argument("--data", type=Path, help="folder to keep the shards in, and to take them from where they are")
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")

    from benchmarks.gpu import correctness, kernels, loading, row, throughput
    from benchmarks.gpu.agenda import Data, Part, full, tiny
    from benchmarks.measure import single_thread
    from simipu_core.training.devices import pick_device

    device = pick_device(arguments.device)
    if device.type == "cpu":
        single_thread()
    sizes = tiny() if arguments.tiny else full()
    runs = dict(zip(PARTS, (correctness.run, throughput.run, kernels.run, loading.run, row.run), strict=True))
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = arguments.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = Data.make(sizes, folder)
        for name in arguments.parts or PARTS:
            part = Part(name, device, sizes, data, arguments.out, 60 * arguments.minutes)
            runs[name](part)
            failed += [f"{name} · {title}" for title in part.failed]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
