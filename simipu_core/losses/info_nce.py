"""InfoNCE."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simipu_core.losses.terms import LossTerm


class Contrast(NamedTuple):
    """Loss and retrieval accuracy of one contrastive task.

    Of keys that are equally similar a query finds its own by chance, so such a tie counts as the share of orders in
    which it is found. Where a similarity is NaN nothing is found.
    """

    loss: Tensor
    top1: Tensor
    """Share of queries whose own key is the most similar."""
    top5: Tensor
    """Share of queries whose own key is among the five most similar."""

    def term(self, weight: float) -> LossTerm:
        """It as a term of a larger loss."""
        return LossTerm(self.loss, weight, {"top1": self.top1, "top5": self.top5})


def info_nce(queries: Tensor, keys: Tensor, temperature: float, *, chunk_rows: int | None = None) -> Contrast:
    """Cross-entropy of each query against all keys, its own key being the target (docs/method.md, "Losses").

    Rows are L2-normalised first; arithmetic is float32 at least. Chance level is ln R.

    Args:
        queries: (R, D).
        keys: (R, D); row i is the positive of query i, all others are its negatives.
        temperature: divisor of the cosine similarities.
        chunk_rows: queries whose similarities are held at once, recomputed in the backward pass; None holds all.

    Returns:
        the mean loss and detached accuracies, scalars.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries = F.normalize(queries.to(torch.promote_types(queries.dtype, torch.float32)), dim=1)
        keys = F.normalize(keys.to(queries.dtype), dim=1)
        targets = torch.arange(len(queries), device=queries.device)
        if chunk_rows is None or chunk_rows >= len(queries):
            sums = _sums(queries, keys, targets, temperature)
        else:
            chunks = zip(torch.split(queries, chunk_rows), torch.split(targets, chunk_rows), strict=True)
            each = [checkpoint(_sums, q, keys, t, temperature, use_reentrant=False) for q, t in chunks]
            sums = torch.stack(each).sum(dim=0)
    loss, top1, top5 = sums / len(queries)
    return Contrast(loss, top1.detach(), top5.detach())


def _sums(queries: Tensor, keys: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Summed loss, and numbers of queries with their key first and among the first five: (3,)."""
    logits = queries @ keys.T / temperature
    with torch.no_grad():
        own = logits.gather(1, targets[:, None])
        better, equal = (logits > own).sum(dim=1), (logits == own).sum(dim=1)
        share = (1 / equal.to(logits)).masked_fill(logits.isnan().any(dim=1), 0)
        top1, top5 = (((num - better).clamp(min=0) * share).clamp(max=1).sum() for num in (1, 5))
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return torch.stack([loss, top1, top5])
