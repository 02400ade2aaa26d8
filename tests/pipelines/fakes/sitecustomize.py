"""Loaded by every step of a test run (it lies on PYTHONPATH): stages that write a line instead of working."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


def _module(name: str, **content: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


@contextlib.contextmanager
def _step(name: str, **_: Any) -> Iterator[Any]:
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(f"{name}\n")
    print(f"{name} 1/1 · 0 s", flush=True)
    if name.startswith(os.environ.get("FAKE_BLOCK", "none")):
        Path(os.environ["FAKE_LOG"]).with_name("pid").write_text(str(os.getpid()))
        signal.pause()
    if name.startswith(os.environ.get("FAKE_CRASH", "none")):
        raise RuntimeError("something broke")
    if name.startswith(os.environ.get("FAKE_FAILURE", "none")):
        from simipu_core.errors import SimipuError

        raise SimipuError(f"{name}: nothing fits; mend it.")
    nothing = dict.fromkeys(("log_file", "log_metrics"), lambda *_, **__: None)
    yield SimpleNamespace(run_id=name, page=f"http://mlflow/#/{name}", **nothing)


def _stage(kind: Any, out_index: int) -> Any:
    def stage(*given: Any, page: Path | None = None, **_: Any) -> None:
        from simipu_core.artifacts import write_artifact

        with write_artifact(given[out_index], kind, inputs={}, parameters={}, licence=""):
            if page:
                page.write_text("<p>sound</p>")

    return stage


def _launch(stage: Any, *given: Any, **named: Any) -> None:
    stage(*given, **named)


def _release(*given: Any, **_: Any) -> Any:
    from simipu_core.artifacts import write_artifact
    from simipu_core.evaluation.report import Report

    metrics = {"a": {"abs_rel": float(os.environ.get("FAKE_ABS_REL", "0.5"))}}
    report = Report(
        headline="a", num_images=1, flip=False, metrics=metrics, baselines={}, model_digest="", data_digest=""
    )
    with write_artifact(given[4], "report", inputs={}, parameters={}, licence='of "somebody"') as draft:
        (draft.path / "report.json").write_text(report.model_dump_json())
    version = {"name": "net", "version": 1, "alias": "challenger"}
    summary = {"abs_rel": {"a": 0.5}, "model": version, "promoted": False, "outcome": "not judged"}
    named = {"facts": lambda: {"Gate": "not judged"}, "summary": lambda: summary}
    return SimpleNamespace(report=report, promoted=False, outcome="not judged", **named)


if "FAKE_LOG" in os.environ:
    _stages = {
        "ingest": ("catalogue", 1),
        "pair": ("depth", 3),
        "pretrain": ("encoder", 2),
        "finetune": ("depth_net", 2),
    }
    for _name, _made in _stages.items():
        _module(f"simipu_core.stages.{_name}", **{_name: _stage(*_made)})
    _module("simipu_core.stages.launch", launch=_launch)
    _module("simipu_core.stages.release", release=_release)
    _module("simipu_core.tracking.mlflow_run", step=_step)
