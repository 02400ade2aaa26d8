"""A loss as the weighted sum of named terms."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss."""

    loss: Tensor
    """Scalar, unweighted."""
    weight: float = 1.0
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    """What is logged beside the loss, by name: detached scalars."""


def weighted_sum(terms: Mapping[str, LossTerm]) -> Tensor:
    """The loss that is trained: Σ weight · loss, a scalar."""
    return reduce(operator.add, (term.weight * term.loss for term in terms.values()))


def logged(terms: Mapping[str, LossTerm]) -> dict[str, Tensor]:
    """Every term's own loss, as ``NAME_loss``, and its scores, as ``NAME_SCORE``.

    A term that is alone is the whole loss, which is logged as such, so only its scores are given.
    """
    losses = {f"{name}_loss": term.loss.detach() for name, term in terms.items()} if len(terms) > 1 else {}
    return losses | {f"{name}_{score}": value for name, term in terms.items() for score, value in term.scores.items()}
