"""Sessions belong to the stage that their statistics say, and weights draw from the stage that training is in."""

from dataclasses import replace

import numpy as np
import pytest

from kalshi_jax import MarketAgnosticKalshiEnv
from kalshi_jax.params import default_weights
from loaders import SessionDataLoader, load_tape
from loaders.curriculum import Stage, session_weights, stage_at, stage_of
from loaders.statistics import SessionStatistics

CALM = SessionStatistics(activity=1.0, quoted_share=0.95, spread_cents=2.0, volatility=0.4)


@pytest.mark.parametrize(
    ("changes", "markets", "stage"),
    [
        ({}, 1, Stage.STABLE),
        ({"volatility": 1.0, "spread_cents": 5.0, "activity": 0.05, "quoted_share": 0.5}, 1, Stage.STABLE),
        ({"volatility": 1.01}, 1, Stage.ALL),
        ({}, 2, Stage.MODERATE),
        ({"volatility": 2.0}, 20, Stage.MODERATE),
        ({"volatility": 2.01}, 2, Stage.ALL),
        ({}, 21, Stage.ALL),
        ({"spread_cents": 5.01}, 1, Stage.ALL),
        ({"activity": 0.04}, 2, Stage.ALL),
        ({"quoted_share": 0.49}, 1, Stage.ALL),
        ({"spread_cents": None}, 1, Stage.ALL),
        ({"volatility": None}, 1, Stage.ALL),
    ],
)
def test_a_session_is_classified_by_its_statistics(changes, markets, stage):
    assert stage_of(replace(CALM, **changes), markets) == stage


def test_an_empty_session_is_for_the_last_stage():
    assert stage_of(SessionStatistics(), 0) == Stage.ALL


def test_stages_follow_progress():
    assert [stage_at(progress) for progress in (0, 0.19, 0.2, 0.49, 0.5, 1)] == [0, 0, 1, 1, 2, 2]


STABLE, MODERATE, ALL = Stage


@pytest.mark.parametrize(
    ("stages", "stage", "weights"),
    [
        ([STABLE, MODERATE, ALL, STABLE], STABLE, [1, 0, 0, 1]),
        ([STABLE, MODERATE, ALL, STABLE], MODERATE, [0, 1, 0, 0]),
        ([STABLE, MODERATE, ALL, STABLE], ALL, [1, 1, 1, 1]),
        ([STABLE, ALL], MODERATE, [1, 0]),  # none is moderate: the next easier ones
        ([MODERATE, ALL], STABLE, [1, 1]),  # nothing is easier: all
        ([ALL, ALL], MODERATE, [1, 1]),
    ],
)
def test_weights_are_of_the_stage_or_of_the_nearest_that_has_sessions(stages, stage, weights):
    found = session_weights(stages, stage)
    assert found.tolist() == weights
    assert found.dtype == np.float32


def test_weights_go_into_the_parameters_of_the_environment():
    tape, index = load_tape("synthetic:sessions=3,markets=2,seconds=60")
    weights = session_weights([STABLE, ALL, MODERATE], MODERATE)
    of_markets = default_weights(tape, event_clock=True) * weights[index.session_of_market]
    params = MarketAgnosticKalshiEnv(max_markets=2).make_params(tape, market_weights=of_markets)
    assert (np.diff(np.asarray(params.market_weights), prepend=0) > 0).tolist() == [False] * 4 + [True] * 2


def test_stages_of_real_recordings(recordings):
    names = ("inxd-20230410", "kxbtc-20260418", "kxbtc15m-20260513T1542", "kxbtc15m-20260513T2301", "mlb-20260807")
    catalogue = SessionDataLoader([next(recordings.glob(f"{name}*.jsonl.gz")) for name in names]).catalogue()
    assert [info.stage for info in catalogue] == [STABLE, ALL, ALL, MODERATE, MODERATE]
