"""Time things side by side, in one process on one thread, and keep the result."""

import json
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"


def single_thread() -> None:
    """Keep PyTorch and OpenCV to one thread; OMP_NUM_THREADS=1 does the same for the others."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def again_and_again(batch: Any) -> Callable[[range], Generator[Any, None, None]]:
    """What loads the same batch at each step of a training."""
    return lambda steps: (batch for _ in steps)


def seconds(tasks: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, float]:
    """Median processor seconds of each task over rounds in which all of them take turns."""
    if warm_up:
        for task in tasks.values():
            task()
    spent: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            begun = time.process_time()
            task()
            spent[name].append(time.process_time() - begun)
    return {name: median(values) for name, values in spent.items()}


def store(name: str, result: Mapping[str, Any]) -> None:
    """Print a result, and write it to ``benchmarks/results/NAME.json``."""
    text = json.dumps(rounded(result), indent=2, ensure_ascii=False)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name} {text}")


def rounded(value: Any) -> Any:
    """Numbers to four digits."""
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
