"""The true queue: at every moment it adds up to the recorded level, and an order only moves forward in it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.exchange_sim import simulate_session
from loaders.replay import PRICES, Changes, replay
from loaders.sim_config import SimConfig
from loaders.true_queue import contracts_ahead, read_orders, write_orders

SMALL = SimConfig(sessions=2, markets=2, seconds=30, rate=12.0, orders=40, noise=0.2, seed=5)
CONFIGS = st.builds(
    lambda seed, tick, rate, informed, echo, patterns: replace(
        SMALL, seed=seed, tick=tick, rate=rate, informed=informed, echo=echo, **patterns
    ),
    seed=st.integers(0, 2**32 - 1),
    tick=st.sampled_from([1.0, 0.1]),
    rate=st.floats(0.1, 30.0),
    informed=st.floats(0.0, 1.0),
    echo=st.floats(0.0, 0.9),
    patterns=st.sampled_from([{}, {"reversion": 12.0}, {"imbalance": 3.0, "bursts": 1.0}, {"stale": 5.0}]),
)


def level_changes(orders):
    """Add the changes of all orders up, level by level and moment by moment, as the replay of deltas does."""
    level = (orders.market * 2 + orders.side) * PRICES + orders.price
    in_level = np.lexsort((orders.time_ms, level))
    level, time_ms, size = level[in_level], orders.time_ms[in_level], orders.size[in_level]
    new = np.append(True, level[1:] != level[:-1])
    total = np.cumsum(size)
    after = total - np.repeat((total - size)[new], np.diff(np.flatnonzero(new), append=len(level)))
    last = np.append((level[1:] != level[:-1]) | (time_ms[1:] != time_ms[:-1]), True)
    level, time_ms, after = level[last], time_ms[last], after[last]
    changed = after != Changes(level, time_ms, after).before
    return level[changed], time_ms[changed], after[changed] * 100


@given(CONFIGS)
@settings(max_examples=25, deadline=None)
def test_the_queue_of_every_level_adds_up_to_its_recorded_size_at_every_moment(config):
    """From the first snapshot to the empty book after the close, in every market."""
    simulated = simulate_session(config, 1)
    replayed = replay(simulated.events)
    level, time_ms, size = level_changes(simulated.orders)
    assert replayed.entries.level.tolist() == level.tolist()
    assert replayed.time_ms[replayed.entries.step].tolist() == time_ms.tolist()
    assert replayed.entries.size.tolist() == size.tolist()
    last = np.append(level[1:] != level[:-1], True)
    assert (size[last] == 0).all()


def walk(orders):
    """Follow every order through the session the slow way: (market, order) -> its times and contracts ahead."""
    queues, places = {}, {}
    for market, time_ms, order, side, price, size in zip(*(c.tolist() for c in vars(orders).values()), strict=True):
        queue = queues.setdefault((market, side, price), {})
        assert size < 0 or order not in queue  # nothing is ever added to an order
        queue[order] = queue.get(order, 0) + size
        assert queue[order] >= 0
        if size > 0:
            assert all(
                other < order for other in queue if queue[other] and other != order
            )  # it joins behind all others
            places[market, order] = [(time_ms, sum(queue.values()) - size)]
            continue
        for other in queue:
            if other > order and queue[other]:
                places[market, other].append((time_ms, places[market, other][-1][1] + size))
    assert not any(remaining for queue in queues.values() for remaining in queue.values())
    return places


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, imbalance=2.0, reversion=10.0, tick=0.1)])
def test_an_order_moves_forward_as_those_ahead_of_it_fill_or_leave_and_never_back(config):
    orders = simulate_session(config, 0).orders
    places = walk(orders)
    assert len(places) > 150
    moved = 0
    for (market, order), steps in places.items():
        time_ms, ahead = contracts_ahead(orders, market, order)
        assert list(zip(time_ms.tolist(), ahead.tolist(), strict=True)) == steps
        assert (np.diff(ahead) < 0).all()
        assert (ahead >= 0).all()
        moved += len(ahead) > 1
    assert moved > 40


def test_an_order_that_never_rested_has_no_place():
    with pytest.raises(ValueError, match="market 7 has no order 3 that rested"):
        contracts_ahead(simulate_session(SMALL, 0).orders, 7, 3)


def test_orders_are_written_the_same_every_time_and_read_back(tmp_path):
    orders = simulate_session(SMALL, 0).orders
    paths = [tmp_path / "first.npz", tmp_path / "second.npz"]
    for path in paths:
        write_orders(orders, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    for name, column in vars(read_orders(paths[0])).items():
        assert column.dtype == getattr(orders, name).dtype
        assert column.tolist() == getattr(orders, name).tolist()
