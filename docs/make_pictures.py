"""Draw the README's pictures from what the demo left: ``make pictures``, after ``make pipeline``."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import websocket
import yaml
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as MplPath
from numpy.typing import NDArray
from PIL import Image

from simipu_core.artifacts import Kind, read_manifest
from simipu_core.data.images import decode_image
from simipu_core.errors import SimipuError
from simipu_core.evaluation.panels import colour
from simipu_core.geometry.cameras import project
from simipu_core.tracking.mlflow_run import tracking_uri

mpl.use("Agg")  # needs no screen
Picture = NDArray[np.uint8]

LARGEST = 300_000
"""Bytes of a picture."""
PICTURES = Path("docs/pictures")
RUNS = Path("build/pipeline")
SUMMARY = Path("build/summary.json")
COMPILED = Path("build/pipeline-demo.yaml")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_MAX_DEPTH = 80.0  # metres shown in the last colour
_ZOOM = 3
_LOADED_AFTER, _DRAWN_AFTER = 15.0, 10.0  # seconds until MLflow's page is there, and has drawn its curves
_SHOWN = "^(intra|inter)_(loss|top1|top5)"
"""Curves on the page."""
_TIDY = """
addEventListener("DOMContentLoaded", () => {
  const style = document.createElement("style");
  style.textContent = ".modebar { display: none !important }";
  document.head.append(style);
});
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
"""Keeps MLflow's chat panel shut."""
_INK, _PAPER, _LINE = "#1f2937", "#eef2ff", "#64748b"


def newest(kind: Kind) -> Path:
    """The artifact of a kind that the demo made last.

    Raises:
        SimipuError: there is none.
    """
    manifests = sorted(RUNS.glob("*/*/*/manifest.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for manifest in manifests:
        if f'"kind": "{kind}"' in manifest.read_text(encoding="utf-8"):
            read_manifest(manifest.parent, kind)
            return manifest.parent
    raise SimipuError(f"{RUNS}: holds no artifact of kind {kind}; run `make pipeline` first.")


def scan_on_image(shards: Path) -> Picture:
    """Two rows of pair shards: the image, and its scan drawn on it, near points bright; (H, W, 3) RGB."""
    (first, *_) = sorted(shards.glob("pairs-*.parquet"))
    rows = pq.read_table(first).slice(0, 64).to_pylist()
    rows.sort(key=lambda row: len(row["points"]), reverse=True)
    return np.concatenate(
        [np.concatenate([_enlarged(row), _with_points(row)]) for row in (rows[0], rows[1])], axis=1, dtype=np.uint8
    )


def _enlarged(row: Mapping[str, Any]) -> Picture:
    image = decode_image(row["image"])
    size = (image.shape[1] * _ZOOM, image.shape[0] * _ZOOM)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _with_points(row: Mapping[str, Any]) -> Picture:
    points = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
    uv, depth = project(points[:, :3], row["lidar_to_camera"], row["intrinsics"])
    picture = _enlarged(row) // 3
    colours = colour(depth.astype(np.float32)[:, None], _MAX_DEPTH)[:, 0]
    for index in np.argsort(-depth):
        u, v = np.rint((uv[index] + 0.5) * _ZOOM - 0.5).astype(int).tolist()
        cv2.circle(picture, (u, v), 2, colours[index].tolist(), cv2.FILLED, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def depth_beside_truth(report: Path) -> bytes:
    """Three panels of the evaluation side by side: image, measured depth, predicted depth; an encoded picture."""
    panels = [np.asarray(Image.open(file)) for file in sorted((report / "panels").glob("*.png"))[:3]]
    if not panels:
        raise SimipuError(f"{report}: holds no panels; set evaluate.panels.")
    figure, axes = plt.subplots(3, len(panels), figsize=(4 * len(panels), 3.9), dpi=110, squeeze=False)
    for column, panel in enumerate(panels):
        for row, part in enumerate(np.split(panel, 3)):
            axes[row, column].imshow(part)
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].spines[:].set_visible(False)
    for row, name in enumerate(("image", "truth", "predicted")):
        axes[row, 0].set_ylabel(name, fontsize=12, color=_INK)
    figure.subplots_adjust(0.025, 0.005, 0.998, 0.995, wspace=0.02, hspace=0.03)
    return _saved(figure, "jpg")


def tasks(compiled: Path) -> dict[str, dict[str, list[str]]]:
    """Edges of a compiled pipeline: task → producer task → what is handed over; parameters have empty names.

    Raises:
        SimipuError: there is no such file.
    """
    if not compiled.is_file():
        raise SimipuError(f"{compiled}: is not there; run `make compile` first.")
    root = next(iter(yaml.safe_load_all(compiled.read_text(encoding="utf-8"))))["root"]["dag"]["tasks"]
    names = {key: task["taskInfo"]["name"] for key, task in root.items()}
    edges: dict[str, dict[str, list[str]]] = {}
    for key, task in root.items():
        came = edges.setdefault(names[key], {})
        for producer in task.get("dependentTasks", []):
            came.setdefault(names[producer], [])
        for value in task.get("inputs", {}).get("artifacts", {}).values():
            if output := value.get("taskOutputArtifact"):
                came.setdefault(names[output["producerTask"]], []).append(output["outputArtifactKey"])
        for value in task.get("inputs", {}).get("parameters", {}).values():
            if output := value.get("taskOutputParameter"):
                came.setdefault(names[output["producerTask"]], [])
    return edges


class Layout(NamedTuple):
    """Where the tasks of a pipeline are drawn."""

    columns: list[list[tuple[str, str]]]
    """Slots from top to bottom: (task, task), or (producer, consumer) of an edge that passes."""
    bands: list[str]
    """Tasks that hand settings to others and nothing else, drawn as bands above all."""
    rows: dict[tuple[str, str], float]
    """Rows of slots that are not in the middle of their column."""

    def place(self, slot: tuple[str, str], column: int) -> tuple[float, float]:
        """Column and row of a slot."""
        if slot in self.rows:
            return float(column), self.rows[slot]
        slots = self.columns[column]
        return float(column), slots.index(slot) - (len(slots) - 1) / 2

    def column(self, task: str) -> int:
        """Column of a task."""
        return next(number for number, slots in enumerate(self.columns) if (task, task) in slots)


def layout(edges: Mapping[str, Mapping[str, list[str]]]) -> Layout:
    """Tasks in columns, each as far right as what it feeds allows, rows by what they take (Sugiyama et al. 1981)."""
    feeds = {task: [user for user, came in edges.items() if came.get(task)] for task in edges}
    bands = [task for task in edges if not feeds[task] and any(task in came for came in edges.values())]
    drawn = [task for task in edges if task not in bands]
    ahead: dict[str, int] = {}

    def steps_to_the_end(task: str) -> int:
        if task not in ahead:
            ahead[task] = 1 + max((steps_to_the_end(user) for user in feeds[task]), default=-1)
        return ahead[task]

    last = max(map(steps_to_the_end, drawn))
    at = {task: last - ahead[task] for task in drawn}
    columns: list[list[tuple[str, str]]] = [[(task, task) for task in drawn if at[task] == n] for n in range(last + 1)]
    for user in drawn:
        for producer in (producer for producer, handed in edges[user].items() if handed):
            for number in range(at[producer] + 1, at[user]):
                columns[number].append((producer, user))
    made = Layout(columns, bands, {})

    def wanted(slot: tuple[str, str], number: int) -> float:
        task = slot[1]
        if slot[0] != task:  # an edge that passes
            before = slot if number > at[slot[0]] + 1 else (slot[0], slot[0])
            return made.place(before, number - 1)[1]
        rows = [
            made.place((producer, task) if at[producer] < number - 1 else (producer, producer), number - 1)[1]
            for producer, handed in edges[task].items()
            if handed
        ]
        return sum(rows) / len(rows) if rows else 0.0

    columns[0].sort(key=lambda slot: slot[1], reverse=True)
    for number in range(1, last + 1):
        columns[number].sort(key=lambda slot, here=number: (wanted(slot, here), slot[0] != slot[1], slot))  # type: ignore[misc]
    starts = [task for task in drawn if not any(edges[task].values()) and len(feeds[task]) == 1]
    for task in starts:  # alone in its column: level with what it feeds
        if len(columns[at[task]]) == 1:
            made.rows[task, task] = made.place((feeds[task][0],) * 2, at[feeds[task][0]])[1]
    return made


def dag(compiled: Path) -> bytes:
    """The compiled pipeline: arrows hand over what they name, bands settings; an encoded picture."""
    edges = tasks(compiled)
    made = layout(edges)
    rows = max(len(slots) for slots in made.columns)
    top, width = -(rows - 1) / 2 - 0.8, len(made.columns)
    half, tall = 0.34, 0.24
    figure, axes = plt.subplots(figsize=(2.2 * width, 0.95 * (rows + 0.6 * len(made.bands))), dpi=150)
    named: set[tuple[str, str]] = set()
    for task, came in edges.items():
        for producer in sorted(producer for producer, handed in came.items() if handed):
            first, last = made.column(producer), made.column(task)
            stops = [made.place((producer, producer), first)]
            stops += [made.place((producer, task), number) for number in range(first + 1, last)]
            stops.append(made.place((task, task), last))
            path = _curve(stops, half)
            axes.add_patch(
                FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=11, color=_LINE, lw=1.3, zorder=1)
            )
            label = ", ".join(sorted(set(came[producer])))
            if (producer, label) not in named:
                named.add((producer, label))
                axes.text(stops[0][0] + 0.5, stops[0][1] - 0.09, label, ha="center", va="bottom", fontsize=7.5,
                          color=_LINE, bbox={"fc": "white", "ec": "none", "pad": 0.5}, zorder=2)  # fmt: skip
    for number, slots in enumerate(made.columns):
        for task in (slot[0] for slot in slots if slot[0] == slot[1]):
            _box(axes, *made.place((task, task), number), half, tall, task.replace("_", "\n"))
    for number, task in enumerate(made.bands):
        _box(
            axes, (width - 1) / 2, top - 0.6 * number, (width - 1) / 2 + half, 0.17, f"{task}  (settings of all steps)"
        )
    axes.set(xlim=(-half - 0.04, width - 1 + half + 0.04))
    axes.set(ylim=((rows - 1) / 2 + 0.34, (top - 0.6 * (len(made.bands) - 1) - 0.25) if made.bands else top + 0.4))
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return _saved(figure, "png")


def _curve(stops: list[tuple[float, float]], half: float) -> MplPath:
    """From the right side of the first stop to the left side of the last one, level at every stop."""
    x, y = stops[0][0] + half, stops[0][1]
    points, codes = [(x, y)], [MplPath.MOVETO]
    for number, (u, v) in enumerate(stops[1:], 2):
        end = u - half
        middle = (x + end) / 2
        points += [(middle, y), (middle, v), (end, v)]
        codes += [MplPath.CURVE4] * 3
        x, y = end, v
        if number < len(stops):
            x = u + half
            points.append((x, v))
            codes.append(MplPath.LINETO)
    return MplPath(points, codes)


def _box(axes: Any, x: float, y: float, half: float, tall: float, text: str) -> None:
    corner, style = (x - half, y - tall), "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, 2 * half, 2 * tall, boxstyle=style, fc=_PAPER, ec=_INK, lw=0.9, zorder=3))
    axes.text(x, y, text, ha="center", va="center", fontsize=9.5, color=_INK, zorder=4)


def mlflow_page(browser: str, page: str) -> bytes:
    """A page of the tracking store, as a headless browser shows it; an encoded picture.

    Args:
        browser: command of a Chromium.
        page: what follows the server's address.

    Raises:
        SimipuError: MLflow or the browser does not come up.
    """
    port, debug_port = _free_port(), _free_port()
    address = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", tracking_uri(), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    settings = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (
        tempfile.TemporaryDirectory() as profile,
        _running([sys.executable, "-m", "mlflow", "server", *store], settings),
        _running(
            [browser, "--headless=new", *(["--no-sandbox"] if os.geteuid() == 0 else []), "--disable-gpu",
             "--no-first-run", "--hide-scrollbars", f"--user-data-dir={profile}",
             f"--remote-debugging-port={debug_port}", "--remote-allow-origins=*", "--window-size=1440,1070",
             "about:blank"],
            settings,
        ),
    ):  # fmt: skip
        _answer(f"{address}/health")
        (tab,) = (tab for tab in json.loads(_answer(f"http://127.0.0.1:{debug_port}/json")) if tab["type"] == "page")
        socket_ = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=60)
        try:
            _ask(socket_, "Page.enable")
            _ask(socket_, "Page.addScriptToEvaluateOnNewDocument", source=_TIDY)
            _ask(socket_, "Page.navigate", url=address + page)
            time.sleep(_LOADED_AFTER)
            _ask(
                socket_, "Runtime.evaluate", expression="document.querySelector(\"input[type='text'], input\").focus()"
            )
            _ask(socket_, "Input.insertText", text=_SHOWN)
            time.sleep(_DRAWN_AFTER)
            shot = _ask(socket_, "Page.captureScreenshot", format="png")
        finally:
            socket_.close()
    return base64.b64decode(shot["data"])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _answer(address: str, seconds: float = 90) -> bytes:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310
                return bytes(answer.read())
        except OSError:
            time.sleep(0.5)
    raise SimipuError(f"{address}: nothing answers there.")


def _ask(connection: websocket.WebSocket, method: str, **params: Any) -> dict[str, Any]:
    """One command of the DevTools protocol and its result; events in between are passed over."""
    connection.send(json.dumps({"id": 1, "method": method, "params": params}))
    while (message := json.loads(connection.recv())).get("id") != 1:
        pass
    result: dict[str, Any] = message["result"]
    return result


def _saved(figure: Any, kind: str) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format=kind, metadata={"Software": None} if kind == "png" else None)
    plt.close(figure)
    return stream.getvalue()


def _encoded(picture: Picture, quality: int = 85) -> bytes:
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def _reduced(data: bytes) -> bytes:
    """A PNG of at most 256 colours, which screens of text need no more than."""
    stream = BytesIO()
    Image.open(BytesIO(data)).convert("RGB").quantize(256).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def write(name: str, data: bytes) -> None:
    """Write a picture, whole or not at all.

    Raises:
        SimipuError: it is too large to be kept in git.
    """
    if len(data) > LARGEST:
        raise SimipuError(f"{name} has {len(data)} bytes, more than {LARGEST}.")
    PICTURES.mkdir(parents=True, exist_ok=True)
    partial = PICTURES / f".{name}.partial"
    partial.write_bytes(data)
    partial.replace(PICTURES / name)
    print(f"{PICTURES / name}: {len(data) / 1000:.0f} kB")


def main() -> None:
    """Make all pictures; without a browser, all but MLflow's page."""
    if not SUMMARY.is_file():
        raise SimipuError(f"{SUMMARY}: is not there; run `make pipeline` first.")
    write("scan_on_image.jpg", _encoded(scan_on_image(newest("pairs"))))
    write("depth_beside_truth.jpg", depth_beside_truth(newest("report")))
    write("dag.png", _reduced(dag(COMPILED)))
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print(
            f"No browser is here ({', '.join(BROWSERS)}), so MLflow's page stays as it is; on Debian, install chromium."
        )
        return
    url = str(json.loads(SUMMARY.read_text(encoding="utf-8"))["mlflow_url"])
    experiment, _, _ = url.partition("/#")[2].partition("/runs/")
    run = read_manifest(newest("encoder"), "encoder").mlflow_run_id
    page = f"/?workflowType=machine_learning#{experiment}/runs/{run}/model-metrics?workflowType=machine_learning"
    write("mlflow.png", _reduced(mlflow_page(browser, page)))


if __name__ == "__main__":
    try:
        main()
    except SimipuError as error:
        sys.exit(f"error: {error}")
