"""Projection heads of the contrastive losses."""

from torch import nn


def projection_head(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    """Linear–BN–ReLU, Linear–BN–ReLU, Linear–BN over rows (R, in_channels) (docs/method.md, "Projection heads")."""
    return nn.Sequential(
        nn.Linear(in_channels, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out_channels),
        nn.BatchNorm1d(out_channels),
    )
