"""What can be seen of pre-training without labels: pair quality, collapse, and a linear probe to depth."""

import torch
from torch import Tensor

_WITHIN_M = (0.1, 0.3, 1.0, 3.0)


def pair_quality(centres: Tensor, match_distance: Tensor, is_visible: Tensor) -> dict[str, Tensor]:
    """How good the positive pairs of a batch are.

    Args:
        centres: (B, M, 3) metres, the contrasted points.
        match_distance: (B, M) metres between the points of a point-point positive, NaN where there is none.
        is_visible: (B, M) bool, inside the image and not hidden.

    Returns:
        shares 0–1 of all centres: matched, visible, duplicated (coinciding with another centre of the sample: false
        negatives), and the cumulative histogram of the matched pairs' distances, with their median and maximum.
    """
    is_matched = ~match_distance.isnan()
    distances = match_distance[is_matched]
    unique = sum(len(torch.unique(sample, dim=0)) for sample in centres)
    quality = {
        "matched_share": is_matched.float().mean(),
        "visible_share": is_visible.float().mean(),
        "duplicate_share": torch.tensor(1 - unique / match_distance.numel()),
    }
    if len(distances):
        quality["match_distance_m_median"] = distances.median()
        quality["match_distance_m_max"] = distances.max()
        for limit in _WITHIN_M:
            quality[f"match_within_{limit:g}m"] = (distances < limit).float().mean()
    return quality


def collapse(embeddings: Tensor) -> dict[str, Tensor]:
    """Whether embeddings (R, D) still use their space.

    Returns:
        `embedding_std`: standard deviation of the L2-normalised embeddings per dimension, times √D; 1 where they
        spread evenly over the sphere, 0 where all are the same. `effective_rank`: exponential of the entropy of the
        normalised singular values of the centred embeddings (Roy and Vetterli 2007), 1 … D.
    """
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    spread = unit.std(dim=0).mean() * unit.shape[1] ** 0.5
    values = torch.linalg.eigvalsh((unit - unit.mean(dim=0)).T.double().cov()).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=1e-12)
    return {"embedding_std": spread, "effective_rank": torch.special.entr(shares).sum().exp()}


def linear_probe(features: Tensor, depth: Tensor, is_held_out: Tensor, penalty: float) -> dict[str, float]:
    """Ridge regression from image features to log depth; scored on held-out points.

    Predictions are kept within the fitted depths, since an unseen feature may be far off.

    Args:
        features: (R, C) frozen features at LiDAR points.
        depth: (R,) metres.
        is_held_out: (R,) bool: scored, not fitted.
        penalty: ridge penalty relative to the number of fitted points, on standardised features.

    Returns:
        `probe_abs_rel` of the probe, and `probe_constant_abs_rel` of the fitted points' median depth.
    """
    fit, test = features[~is_held_out].double(), features[is_held_out].double()
    target = depth[~is_held_out].double().log()
    mean, std = fit.mean(dim=0), fit.std(dim=0).clamp(min=1e-6)
    fit, test = (fit - mean) / std, (test - mean) / std
    gram = fit.T @ fit + penalty * len(fit) * torch.eye(fit.shape[1], dtype=fit.dtype, device=fit.device)
    weights = torch.linalg.solve(gram, fit.T @ (target - target.mean()))
    truth = depth[is_held_out].double()
    predicted = (test @ weights + target.mean()).clamp(target.min(), target.max()).exp()
    constant = depth[~is_held_out].double().median()
    return {
        "probe_abs_rel": ((predicted - truth).abs() / truth).mean().item(),
        "probe_constant_abs_rel": ((constant - truth).abs() / truth).mean().item(),
    }
