"""Speed of the synthetic world: scenes a second with all files, and what trying only likely rays is worth."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from simipu_core.config import SyntheticConfig
from simipu_core.synthetic import synthesize
from simipu_core.synthetic.calibration import object_camera
from simipu_core.synthetic.raycast import cast, full_windows
from simipu_core.synthetic.street import make_street

RESULT = Path(__file__).parent / "results" / "synthetic.json"


def scenes_per_second(num_scenes: int, workers: int) -> tuple[float, float]:
    """Scenes a second by the clock, and processor milliseconds a scene, workers' start included."""
    with tempfile.TemporaryDirectory() as folder:
        wall, before = time.perf_counter(), os.times()
        synthesize(SyntheticConfig(object_frames=num_scenes, drives=0), Path(folder) / "world", workers)
        wall, after = time.perf_counter() - wall, os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return num_scenes / wall, 1e3 * cpu / num_scenes


def window_gain(num_scenes: int) -> float:
    """Processor time of every primitive on every camera ray over that of its own window only."""
    camera = object_camera((96, 320))
    spent = {"windows": 0.0, "full": 0.0}
    for index in range(num_scenes):
        scene, pose = make_street(np.random.default_rng(index)).at(0)
        rays, origin = camera.pixel_rays(pose), camera.position(pose)
        begun = time.process_time()
        windows = camera.windows(scene.solids, pose)
        ground = np.array([[0, 0, camera.size[0], 0, camera.size[1]]])
        cast(scene.solids, origin, rays, np.concatenate((ground, windows)))
        middle = time.process_time()
        cast(scene.solids, origin, rays, full_windows(len(scene.solids), *camera.size))
        spent["windows"] += middle - begun
        spent["full"] += time.process_time() - middle
    return spent["full"] / spent["windows"]


def main() -> None:
    """Measure, print and store."""
    workers = os.cpu_count() or 1
    rate, _ = scenes_per_second(48, workers)
    _, cpu = scenes_per_second(16, 0)
    result: dict[str, Any] = {
        "image_size": [96, 320],
        "lidar_points": 20000,
        "workers": workers,
        "scenes_per_second": round(rate, 2),
        "cpu_ms_per_scene": round(cpu, 1),
        "full_over_windowed": round(window_gain(4), 1),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
