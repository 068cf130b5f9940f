"""Bootstrap intervals of means and ratios over windows, drawn by cluster: windows of one market are no independent evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SURE = 0.95


def interval(values: np.ndarray, clusters: np.ndarray | None = None) -> dict[str, float]:
    """Mean of f32[seeds, n] over windows with its bootstrap 95% interval.

    Seeds of one window are averaged first, for they are no independent evidence either. Then whole clusters are drawn with
    replacement, each with all its windows, and every window drawn has the same weight: a market of many windows weighs more
    than one of few. Where all windows are of one cluster, windows are drawn, and the interval says nothing of other markets.

    Args:
        values: f32[seeds, n]; entries that are NaN do not count; with none left all three figures are NaN.
        clusters: i[n], the cluster of each window; None: every window is one.
    """
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    per_window = np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1)
    return ratio_interval(per_window, count > 0, clusters)


def ratio_interval(above: np.ndarray, below: np.ndarray, clusters: np.ndarray | None = None) -> dict[str, float]:
    """Sum of `above` over the sum of `below`, f[n] each, with its 95% interval by clusters (see `interval`)."""
    if not below.any():
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan")}
    low, high = np.nanquantile(_draw_ratios(above, below, clusters, seed=0), _bounds())
    return {"mean": float(above.sum() / below.sum()), "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Retention:
    """How much of its return on seen markets a policy keeps on unseen ones."""

    unseen: float  # mean return, $
    seen: float  # mean return, $
    ratio: float  # unseen over seen; NaN where `reason` says why
    low: float  # 95% interval of the ratio; NaN where there is none
    high: float
    reason: str  # why there is no ratio, or no interval; empty if there are both


def retention(
    unseen: np.ndarray, seen: np.ndarray, unseen_clusters: np.ndarray | None, seen_clusters: np.ndarray | None
) -> Retention:
    """Compare mean returns, f32[seeds, n] each; both sides are resampled independently, each by its clusters."""
    above, below = (x.mean(axis=0, dtype=np.float64) for x in (unseen, seen))
    mean_above, mean_below = float(above.mean()), float(below.mean())
    nan = float("nan")
    if mean_below <= 0:
        return Retention(mean_above, mean_below, nan, nan, nan, "it earned nothing on the seen markets")
    tops = _draw_ratios(above, np.ones_like(above), unseen_clusters, seed=0)
    bottoms = _draw_ratios(below, np.ones_like(below), seen_clusters, seed=1)
    if (bottoms <= 0).mean() > (1 - SURE) / 2:
        reason = "no interval: what it earned on the seen markets is not surely above zero"
        return Retention(mean_above, mean_below, mean_above / mean_below, nan, nan, reason)
    ratios = np.sort(
        np.where(bottoms > 0, tops / np.where(bottoms > 0, bottoms, 1), np.where(tops < 0, -np.inf, np.inf))
    )
    low, high = (float(ratios[round(x * (RESAMPLES - 1))]) for x in _bounds())
    return Retention(mean_above, mean_below, mean_above / mean_below, low, high, "")


def _bounds() -> tuple[float, float]:
    return (1 - SURE) / 2, (1 + SURE) / 2


def _draw_ratios(above: np.ndarray, below: np.ndarray, clusters: np.ndarray | None, seed: int) -> np.ndarray:
    """Draw clusters with replacement and give the ratio of the sums, f64[RESAMPLES]; clusters with nothing below are left out."""
    own = np.arange(len(above))
    names = own if clusters is None or len(np.unique(clusters)) == 1 else clusters
    _, place = np.unique(names, return_inverse=True)
    sums = np.stack([np.bincount(place, weights=np.asarray(x, np.float64)) for x in (above, below)], axis=-1)
    sums = sums[sums[:, 1] > 0]
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    return np.divide(*(sums[:, i][drawn].sum(axis=1) for i in (0, 1)))
