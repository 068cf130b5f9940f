"""Figures of episodes, on cases worked out by hand."""

import numpy as np
import pytest

from kalshi_jax.metrics import episode_metrics, max_drawdown, sharpe_per_step, total_return

VALUE = np.array([[100.0, 100.0], [104.0, 100.0], [101.0, 100.0], [103.0, 100.0]], np.float32)
LIVED = np.array([[True, True], [True, False], [True, False]])


def test_return_and_drawdown():
    np.testing.assert_allclose(total_return(VALUE), [3.0, 0.0])
    np.testing.assert_allclose(max_drawdown(VALUE), [3.0, 0.0])


def test_sharpe_is_mean_over_deviation_of_the_steps_that_were_lived():
    changes = np.array([4.0, -3.0, 2.0])
    np.testing.assert_allclose(sharpe_per_step(VALUE, LIVED), [changes.mean() / changes.std(), 0.0], rtol=1e-5)
    short = np.concatenate([VALUE, VALUE[-1:]])
    ended = np.concatenate([LIVED, [[False, False]]])
    np.testing.assert_allclose(sharpe_per_step(short, ended), sharpe_per_step(VALUE, LIVED), rtol=1e-6)


def test_an_episode_in_figures():
    trades = np.array([[1, 0], [0, 9], [2, 9]])
    taker = np.array([[10, 0], [0, 9], [10, 9]])
    maker = np.array([[0, 0], [0, 9], [20, 9]])
    figures = episode_metrics(VALUE, LIVED, trades, taker, maker, taker * 0.02)
    expected = {
        "total_return": 3.0,
        "return_percent": 3.0,
        "max_drawdown": 3.0,
        "trades_per_step": 1.0,
        "contracts": 40,
        "turnover": 0.4,
        "fees": 0.4,
        "maker_share": 0.5,
        "steps": 3,
    }
    for name, value in expected.items():
        assert float(figures[name][0]) == pytest.approx(value, rel=1e-5), name
    assert float(figures["contracts"][1]) == 0, "what comes after the end does not count"
    assert np.isnan(figures["maker_share"][1]), "no trades, no share"
