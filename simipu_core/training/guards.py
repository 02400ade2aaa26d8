"""What stops a training, in one sentence: numbers that ran away, unused parameters."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from simipu_core.errors import SimipuError

_MEMORY = 0.98  # share of the running average that a step keeps
_MIN_STEPS = 10  # steps that make an average
_SINGLE_VALUE = re.compile(r"Expected more than 1 value per channel .*\[([\d, ]+)\]")  # of PyTorch's message


@contextmanager
def norm_errors(name: str, samples: Sequence[str]) -> Iterator[None]:
    """Say what to do where BatchNorm is given a single value, which no configuration could tell beforehand.

    Raises:
        SimipuError: it was.
    """
    try:
        yield
    except ValueError as error:
        if not (found := _SINGLE_VALUE.search(str(error))):
            raise
        raise SimipuError(
            f"{name}: a micro-batch of {len(samples)} ({', '.join(samples[:3])}) leaves BatchNorm a single value, of "
            f"shape {found[1].replace(', ', '×')}; take larger images or micro-batches (a larger batch_size, fewer "
            "processes or a smaller accumulate)."
        ) from None


class Watch:
    """Stops on a loss or gradient that is not finite, and on divergence."""

    def __init__(self, name: str, divergence_factor: float) -> None:
        self.name = name
        self.factor = divergence_factor
        self._total = self._weight = 0.0
        self._steps = 0

    def check(self, step: int, own_loss: float, mean_loss: float, gradient_norm: float, samples: Sequence[str]) -> None:
        """Look at one step before its gradients are applied.

        Args:
            step: number of the step, from 0.
            own_loss: of this rank.
            mean_loss: over all ranks; as all see the same one, all stop together.
            gradient_norm: L2, of the gradients averaged over all ranks.
            samples: ids of this rank's samples of the step.

        Raises:
            SimipuError: it ran away; the message names step and samples.
        """
        where = f"at step {step} (samples {', '.join(samples)})"
        mend = "look at these samples or lower the learning rate."
        if not math.isfinite(own_loss):
            raise SimipuError(f"{self.name}: the loss is {own_loss} {where}; {mend}")
        if not math.isfinite(mean_loss):
            raise SimipuError(f"{self.name}: another rank's loss is not finite at step {step}; it names the samples.")
        if not math.isfinite(gradient_norm):
            raise SimipuError(f"{self.name}: the gradient norm is {gradient_norm} {where}; {mend}")
        average = self._total / self._weight if self._steps >= _MIN_STEPS else math.inf
        if 0 < average * self.factor < mean_loss:
            raise SimipuError(
                f"{self.name}: the loss {mean_loss:.3g} is more than divergence_factor {self.factor:g} times its "
                f"running average {average:.3g} {where}; {mend}"
            )
        self._total = _MEMORY * self._total + (1 - _MEMORY) * mean_loss
        self._weight = _MEMORY * self._weight + (1 - _MEMORY)
        self._steps += 1


def check_all_trained(name: str, model: nn.Module) -> None:
    """Require a gradient of every parameter that is said to learn.

    Raises:
        SimipuError: naming the parameters without one.
    """
    unused = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise SimipuError(
            f"{name}: the loss does not reach {', '.join(unused)}; these would keep their random values: freeze them "
            "(requires_grad) where that is meant, or give their loss a weight."
        )
