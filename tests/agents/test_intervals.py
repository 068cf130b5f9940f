"""Intervals resample what is independent, and a ratio is only given where it means something."""

import numpy as np
import pytest

from agents.intervals import interval, ratio_interval, retention


def test_intervals_are_over_windows_not_over_seeds():
    values = np.array([[1.0, 2.0, 3.0]] * 2) + np.array([[-0.5], [0.5]])
    figures = interval(values)
    assert figures["mean"] == pytest.approx(2.0)
    assert figures["low"] == pytest.approx(1.0, abs=0.4)
    assert figures["low"] < 2 < figures["high"]
    assert interval(np.repeat(values, 50, axis=0)) == pytest.approx(figures), "more seeds alone make nothing surer"
    assert interval(np.array([[np.nan, 4.0]]))["mean"] == 4.0
    assert np.isnan(interval(np.array([[np.nan]]))["mean"])


def test_more_windows_of_the_same_markets_make_nothing_surer():
    markets = np.array([-3.0, -1.0, 0.0, 1.0, 2.0, 4.0])
    once = interval(markets[None])
    windows, clusters = np.repeat(markets, 100)[None], np.repeat(np.arange(6), 100)
    assert interval(windows, clusters) == pytest.approx(once)
    alone = interval(windows)
    assert alone["high"] - alone["low"] < 0.2 * (once["high"] - once["low"]), "as if each window told something new"


def test_every_window_weighs_the_same():
    values, clusters = np.array([[1.0, 1.0, 1.0, 5.0]]), np.array([7, 7, 7, 2])
    figures = interval(values, clusters)
    assert figures["mean"] == 2.0, "and not 3, the mean of the markets' means"
    assert (figures["low"], figures["high"]) == (1.0, 5.0), "either market may be all that is drawn"


def test_a_single_market_is_judged_by_its_windows():
    values = np.array([[1.0, 2.0, 3.0, 6.0]])
    assert interval(values, np.zeros(4, int)) == interval(values)
    assert interval(values[:, :1]) == {"mean": 1, "low": 1, "high": 1}


def test_an_interval_covers_the_truth_as_often_as_it_says():
    generator, covered = np.random.default_rng(0), 0
    clusters = np.repeat(np.arange(40), 5)
    for _ in range(200):
        shared = generator.normal(size=40)[clusters]  # windows of a market share most of their luck
        figures = interval((shared + 0.3 * generator.normal(size=200))[None], clusters)
        covered += figures["low"] <= 0 <= figures["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_a_ratio_of_sums_leaves_out_clusters_that_have_nothing_to_count():
    figures = ratio_interval(np.array([1.0, 3.0, 0.0]), np.array([2.0, 2.0, 0.0]), np.array([0, 1, 2]))
    assert figures == {"mean": 1.0, "low": 0.5, "high": 1.5}
    assert all(np.isnan(x) for x in ratio_interval(np.zeros(2), np.zeros(2)).values())


def test_retention_is_the_ratio_of_the_mean_returns():
    generator = np.random.default_rng(0)
    seen, unseen = generator.normal(10, 1, (2, 200)), generator.normal(5, 1, (2, 300))
    kept = retention(unseen, seen, None, np.arange(200) // 2)
    assert kept.ratio == pytest.approx(kept.unseen / kept.seen) == pytest.approx(0.5, abs=0.02)
    assert kept.low < 0.5 < kept.high
    assert kept.high - kept.low < 0.05
    assert kept.reason == ""


def test_there_is_no_retention_of_nothing():
    loss = retention(np.ones((1, 9)), -np.ones((1, 9)), None, None)
    assert np.isnan([loss.ratio, loss.low, loss.high]).all()
    assert "earned nothing on the seen markets" in loss.reason
    unsure = retention(np.ones((1, 9)), np.array([[30.0, *[-3] * 8]]), None, None)
    assert unsure.ratio == pytest.approx(1 / (6 / 9))
    assert np.isnan([unsure.low, unsure.high]).all()
    assert "not surely above zero" in unsure.reason
