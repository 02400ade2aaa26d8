"""A linear probe: how well frozen features of an encoder tell classes, pixel by pixel."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.label_efficiency.frames import CLASSES
from simipu_core.data.depth_views import shrink
from simipu_core.data.images import decode_image
from simipu_core.data.schema import DepthRow
from simipu_core.data.shards import Shards
from simipu_core.experiment import Experiment
from simipu_core.models.depth_net import build_depth_net
from simipu_core.models.image_encoder import Normalize, image_encoder
from simipu_core.models.weights import EncoderSpec, load_weights, read_spec

_PENALTY = 1e-3
_ITERATIONS = 100


@dataclass(frozen=True)
class Counted:
    """Pixels by drive, in the order of `drives`, and class."""

    drives: tuple[str, ...]
    frames: tuple[int, ...]
    classes: tuple[str, ...]
    intersection: NDArray[np.int64]
    """(D, C) pixels where truth and answer agree."""
    union: NDArray[np.int64]
    """(D, C) pixels where truth or answer is the class."""


def probe(experiment: Experiment, encoder: Path | None, frames: Path) -> Counted:
    """Fit on street frames that train, count on those that are scored.

    Args:
        experiment: of the row and seed.
        encoder: artifact of its pre-training; None takes the random weights that fine-tuning would begin with.
        frames: folder of `frames.prepare`, with `street` and `classes`.
    """
    net = _frozen(experiment, encoder)
    with np.load(frames / "classes" / "classes.npz", allow_pickle=False) as stored:
        rows = {split: stored[f"{split}_rows"] for split in ("train", "eval")}
        truth = {split: stored[split] for split in ("train", "eval")}
    scale, size = experiment.finetune.input_scale, truth["train"].shape[1:]
    training = Shards[DepthRow](frames / "street", "depth", "train")
    known = torch.cat([_features(net, training.row(int(row)), scale, size) for row in rows["train"]])
    classify = fit(known, torch.from_numpy(truth["train"].reshape(-1).astype(np.int64)), len(CLASSES))

    drives: dict[str, list[int]] = {}
    hits, unions = [], []
    scored = Shards[DepthRow](frames / "street", "depth", "eval")
    for number, index in enumerate(rows["eval"]):
        row = scored.row(int(index))
        answer = classify(_features(net, row, scale, size)).argmax(dim=1).numpy()
        hit, union = agreement(truth["eval"][number].reshape(-1), answer, len(CLASSES))
        hits.append(hit)
        unions.append(union)
        drives.setdefault(row["sequence"], []).append(number)
    by_drive = [list(numbers) for numbers in drives.values()]
    return Counted(
        drives=tuple(drives),
        frames=tuple(map(len, by_drive)),
        classes=CLASSES,
        intersection=np.stack([np.sum([hits[number] for number in numbers], axis=0) for numbers in by_drive]),
        union=np.stack([np.sum([unions[number] for number in numbers], axis=0) for numbers in by_drive]),
    )


def fit(features: Tensor, classes: Tensor, num_classes: int) -> nn.Module:
    """Multinomial logistic regression on standardised features, with a small ridge penalty.

    Args:
        features: (N, F).
        classes: (N,) int64.
        num_classes: C.

    Returns:
        A module (M, F) → (M, C) logits.
    """
    deviation, mean = torch.std_mean(features, dim=0)
    standard = (features - mean) / (deviation + 1e-6)
    linear = nn.Linear(features.shape[1], num_classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(standard), classes) + _PENALTY * linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # the standardisation becomes part of the layer
        linear.weight /= deviation + 1e-6
        linear.bias -= linear.weight @ mean
    return linear.requires_grad_(False)


def agreement(
    truth: NDArray[np.integer], answer: NDArray[np.integer], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Intersection and union (C,), in pixels, of true and answered classes, (P,) each."""
    confusion = np.bincount(truth.astype(np.int64) * num_classes + answer, minlength=num_classes**2)
    confusion = confusion.reshape(num_classes, num_classes)
    hits = np.diagonal(confusion)
    return hits, confusion.sum(axis=0) + confusion.sum(axis=1) - hits


def _frozen(experiment: Experiment, encoder: Path | None) -> nn.Sequential:
    """Images (B, 3, H, W), 0–255 → the five feature maps."""
    if encoder is None:
        torch.manual_seed(experiment.finetune.seed)
        net = build_depth_net(experiment.finetune, None)
        return nn.Sequential(net.normalize, net.encoder).eval()
    spec = read_spec(encoder / "encoder.safetensors", EncoderSpec)
    module = image_encoder(spec.name, norm_eps=spec.norm_eps)
    load_weights(module, encoder / "encoder.safetensors")
    return nn.Sequential(Normalize(spec.input), module).eval()


@torch.no_grad()
def _features(net: nn.Module, row: DepthRow, scale: float, size: tuple[int, ...]) -> Tensor:
    """Features (h · w, F) of a frame on the grid of its classes, all levels but the first joined."""
    image = torch.from_numpy(shrink(decode_image(row["image"]), scale)).permute(2, 0, 1)[None]
    maps = net(image)[1:]
    resized = [F.interpolate(each, size=tuple(size), mode="bilinear", align_corners=False) for each in maps]
    return torch.cat(resized, dim=1)[0].flatten(1).T
