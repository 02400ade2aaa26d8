"""The model card of a registered version."""

import math
from pathlib import Path
from typing import Any

from simipu_core.artifacts import Manifest, code_revision, read_manifest
from simipu_core.evaluation.report import Report
from simipu_core.models.depth_net import DepthNetSpec
from simipu_core.models.weights import read_spec

_SETTINGS = ("init", "epochs", "batch_size", "max_frames", "seed", "sig_lambda", "weight_decay", "precision")


def model_card(model: Path, report: Report, experiment: str) -> str:
    """Markdown that says what a depth net is, what it was made of, how good it is and what it is not for.

    Args:
        model: artifact of kind `depth_net`.
        report: its evaluation.
        experiment: name of the experiment.

    Raises:
        SimipuError: the artifact is not a whole depth net.
    """
    manifest = read_manifest(model, "depth_net")
    spec = read_spec(model / "model.safetensors", DepthNetSpec)
    parts = [
        _what(spec, experiment),
        _scores(report),
        _input(spec),
        _data(manifest, report),
        _training(manifest.parameters, manifest),
        _limits(spec, report),
    ]
    return "\n\n".join(parts) + "\n"


def _what(spec: DepthNetSpec, experiment: str) -> str:
    widths = ", ".join(map(str, spec.decoder_channels))
    return f"""# Monocular depth: {experiment}

Metric depth from a single image: {spec.encoder_name} encoder, DenseDepth decoder ({widths} channels), answers between
{spec.min_depth:g} and {spec.max_depth:g} m. Intended for scenes like those of its training data: mapping, labelling,
research. Weights are safetensors; loading them runs no foreign code."""


def _scores(report: Report) -> str:
    baselines = list(report.baselines)
    champion = [f"champion (version {report.champion.version})"] if report.champion else []
    header = ["protocol", "Abs Rel", "95% interval", "RMSE (m)", "a1", *(name.replace("_", " ") for name in baselines)]
    rows = [header + champion]
    for protocol, scores in report.metrics.items():
        low, high = report.intervals.get(protocol, (math.nan, math.nan))
        others = [report.baselines[name][protocol]["abs_rel"] for name in baselines]
        if report.champion:
            others.append(report.champion.metrics[protocol]["abs_rel"])
        rows.append(
            [
                f"{protocol} (headline)" if protocol == report.headline else protocol,
                f"{scores['abs_rel']:.4f}",
                f"{low:.4f}–{high:.4f}",
                f"{scores.get('rmse', math.nan):.3f}",
                f"{scores.get('a1', math.nan):.3f}",
                *(f"{value:.4f}" for value in others),
            ]
        )
    table = [" | ".join(row) for row in rows]
    table.insert(1, " | ".join(["---"] * len(rows[0])))
    lines = "\n".join(f"| {line} |" for line in table)
    flip = ", averaged with the mirrored image" if report.flip else ""
    gate = ""
    if report.decision:
        gate = f"\n\nGate: {'passed' if report.decision.passed else 'not passed'}; {report.decision.reason}."
    return f"""## Scores

{report.num_images} held-out images{flip}; no scale is fitted. Columns to the right are the Abs Rel of others on the
same images. Intervals come from resampling whole sequences.

{lines}{gate}"""


def _input(spec: DepthNetSpec) -> str:
    shown = "the 352×1216 KITTI benchmark crop" if spec.fixed_crop == "kb" else "the whole frame"
    return f"""## Input

8-bit RGB, {shown}, shrunk by {spec.input_scale:g}. Inside, channels are taken as {spec.input.channels} with mean
{_numbers(spec.input.mean)} and deviation {_numbers(spec.input.std)}: the weights file says so itself, and loading
applies it. The served model takes B×H×W×3 uint8 and answers B×H×W float32 metres along the optical axis."""


def _data(manifest: Manifest, report: Report) -> str:
    inputs = ", ".join(f"{name} `{digest[:16]}`" for name, digest in manifest.inputs.items())
    return f"""## Data and licence

Training data licence: {manifest.licence or "not stated"}. It covers the model too.
Inputs: {inputs}. Scored on `{report.data_digest[:16]}`."""


def _training(parameters: dict[str, Any], manifest: Manifest) -> str:
    settings = [f"{name} {parameters[name]}" for name in _SETTINGS if parameters.get(name) is not None]
    schedule = parameters.get("schedule") or {}
    if "max_lr" in schedule:
        settings.append(f"peak learning rate {schedule['max_lr']}")
    counts = [f"{value:g} {name}" for name, value in manifest.counts.items()]
    return f"""## Training

SigLoss, AdamW, one-cycle schedule. {"; ".join(settings) or "settings not recorded"}. {", ".join(counts)}. All settings
are in the run. Code revision {code_revision()}, network digest `{manifest.digest[:16]}`, made {manifest.created}."""


def _limits(spec: DepthNetSpec, report: Report) -> str:
    return f"""## Limits

Nothing nearer than {spec.min_depth:g} m or farther than {spec.max_depth:g} m can be answered. Depth is metric only for
cameras with about the focal length, mounting height and image size of the training data. Scores say nothing about other
weather, places or cameras than those of the {report.num_images} scored images, and there is no estimate of uncertainty.
Not for decisions on which safety depends."""


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
