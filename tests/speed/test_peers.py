"""The benchmark of peers: ours and gymnax are timed, what a replay passes is counted exactly, a missing peer is a row."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.runs import TrainConfig
from benchmarks import contests
from benchmarks.contests import Setup, read_events
from benchmarks.outsiders import market_feeds
from benchmarks.peers import Config, print_tables, run
from benchmarks.rollouts import rows_met
from kalshi_jax import Action
from loaders import book_at

SOURCE = "synthetic:sessions=1,markets=2,seconds=60"
CONFIG = Config((SOURCE,), ("steps", "replay"), repetitions=2, episodes=4, steps=16, num_envs=4, devices=1)


@pytest.fixture(autouse=True)
def small_programs(monkeypatch):
    """Without tiers 2 and 3: they are not the subject here."""
    small = partial(TrainConfig, temporal_features=False, sequence_features=False)
    monkeypatch.setattr(contests, "TrainConfig", small)


@pytest.fixture
def setup():
    return Setup(read_events([SOURCE]), CONFIG)


@pytest.mark.slow
def test_steps_and_replay_are_timed_and_a_missing_peer_is_a_row(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "hftbacktest", None)  # as if it were not installed
    report = json.loads(json.dumps(run(CONFIG)))
    timed = [row for row in report["rows"] if row["median"] is not None]
    assert [(row["item"], row["peer"]) for row in timed] == [
        ("steps", "kalshi-jax"),
        ("steps", "gymnax"),
        *3 * [("replay", "kalshi-jax")],
    ]
    assert all(0 < row["min"] <= row["median"] <= row["max"] and row["repetitions"] == 2 for row in timed)
    assert timed[0]["ours_to_this"] == timed[2]["ours_to_this"] == 1
    assert timed[1]["ours_to_this"] == pytest.approx(timed[0]["median"] / timed[1]["median"])
    (missing,) = (row for row in report["rows"] if row["median"] is None)
    assert (missing["peer"], missing["what"]) == ("hftbacktest", "not installed: pip install '.[peers]'")
    assert report["synthetic"]
    print_tables(report)
    assert "SIMULATED EXCHANGE" in capsys.readouterr().out


@pytest.mark.slow
def test_a_replay_passes_every_row_once(setup):
    _, state = setup.env.start(setup.params, jnp.array([0]), jnp.int32(0))
    wait = jnp.full((1, 1), Action.BUY_YES_WAIT)
    transition = jax.jit(setup.env.transition)
    passed = int(rows_met(state, setup.tape)[0])
    for _ in range(61):
        before, (state, *_) = state, transition(state, wait, setup.params)
        passed += int((rows_met(state, setup.tape) - rows_met(before, setup.tape))[0])
    assert passed == int(setup.tape.track_length[0])


def test_the_feed_of_hftbacktest_holds_the_recorded_book(setup):
    types = pytest.importorskip("hftbacktest.types", reason="needs hftbacktest: pip install 'kalshi-jax[peers]'")
    feeds = market_feeds(setup.sessions[0])
    assert sum(changes for _, _, changes in feeds) == setup.changes
    for (feed, tick, _), ticker in zip(feeds, setup.index.tickers, strict=True):
        assert tick == 0.01
        middle = feed["exch_ts"][len(feed) // 2]
        bids = {}
        for event in feed[(feed["exch_ts"] <= middle) & (feed["ev"] & types.DEPTH_EVENT > 0)]:
            if event["ev"] & types.BUY_EVENT:
                bids[round(event["px"] * 100)] = event["qty"]
        best = max(price for price, size in bids.items() if size > 0)
        book = book_at(setup.tape, setup.index, ticker, int(middle) // 1_000_000)
        assert book.yes_bids[0] == (best, np.floor(bids[best]))
