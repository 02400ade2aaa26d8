"""InfoNCE."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name)
from torch import Tensor


@dataclass(frozen=True)
class Contrast:
    """Loss and retrieval accuracy of one contrastive task."""

    loss: Tensor
    top1: Tensor
    """Share of queries whose own key is the most similar."""
    top5: Tensor
    """Share of queries whose own key is among the five most similar."""


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Contrast:
    """Cross-entropy of each query against all keys, its own key being the target (reference section 3).

    Rows are L2-normalised first. Chance level is ln(R).

    Args:
        queries: (R, D).
        keys: (R, D); row i is the positive of query i, all others are its negatives.
        temperature: divisor of the cosine similarities.

    Returns:
        the mean loss and detached accuracies, scalars.
    """
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    targets = torch.arange(len(logits), device=logits.device)
    with torch.no_grad():
        better = (logits > logits.diagonal()[:, None]).sum(dim=1)
    return Contrast(F.cross_entropy(logits, targets), (better < 1).float().mean(), (better < 5).float().mean())
