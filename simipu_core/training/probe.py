"""Label-free progress of pre-training: how well frozen image features tell depth, linearly."""

from collections.abc import Mapping

import numpy as np
import torch

from simipu_core.config import PretrainConfig
from simipu_core.data.loader import Rows
from simipu_core.data.probe_views import ProbeSample, probe_samples
from simipu_core.data.schema import PairRow
from simipu_core.evaluation.pretraining import linear_probe
from simipu_core.models.image_branch import ImageBranch


class DepthProbe:
    """Scores a model's image features by a linear map to log depth, fitted on LiDAR points of the pairs themselves.

    Features are those the contrastive loss samples, in evaluation mode.

    Args:
        config: the pre-training section.
        rows: pair shards; evenly spread rows are used, the last quarter of them for scoring.
        num_rows: how many rows there are.
    """

    def __init__(self, config: PretrainConfig, rows: Rows[PairRow], num_rows: int) -> None:
        self.config = config
        chosen = np.unique(np.linspace(0, num_rows - 1, min(config.probe.num_samples, num_rows)).astype(int))
        self.samples = probe_samples([rows.row(int(index)) for index in chosen], config.image)

    @torch.no_grad()
    def __call__(self, model: ImageBranch) -> Mapping[str, float]:
        """Abs Rel on held-out scans, and that of a constant depth; the model's state is left as it was."""
        was_training = model.training
        model.eval()
        features = torch.cat([self._features(model, sample) for sample in self.samples])
        model.train(was_training)
        depth = torch.cat([sample.depth for sample in self.samples]).to(features.device)
        scored = len(self.samples) - max(len(self.samples) // 4, 1)
        lengths = [len(sample.depth) for sample in self.samples]
        is_held_out = torch.arange(len(depth), device=features.device) >= sum(lengths[:scored])
        return linear_probe(features, depth, is_held_out, self.config.probe.penalty)

    def _features(self, model: ImageBranch, sample: ProbeSample) -> torch.Tensor:
        device = next(model.parameters()).device
        return model.pixel_features(sample.image.to(device), sample.pixels.to(device))[0]


def is_probed(config: PretrainConfig, steps_done: int, steps_per_epoch: int) -> bool:
    """Whether the probe is due: every few epochs, and at the end."""
    every = config.probe.every_epochs
    if not every or steps_done % steps_per_epoch:
        return False
    epoch = steps_done // steps_per_epoch
    return epoch % every == 0 or epoch == config.epochs
