"""The simulated exchange: its books are possible books, its fair value a martingale, its frames a recording."""

import gzip
import json
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.queue_models import QueueModels, columns_of, replay_orders
from kalshi_jax.tape import YES
from loaders import book_at, load_tape
from loaders.events import Kind
from loaders.exchange_sim import SimConfig, fair_values, simulate_session, synthetic_events
from loaders.recordings import read_recording
from loaders.replay import replay
from loaders.shadows import ShadowPlan
from loaders.sim_frames import write_frames
from loaders.tapes import build_tape

SMALL = SimConfig(sessions=2, markets=3, seconds=60, seed=5)


def columns(events):
    names = ("market", "time_ms", "kind", "side", "price", "size")
    trades = [getattr(events.trades, name) for name in ("market", "time_ms", "yes_price", "size", "taker_side")]
    return [getattr(events, name).tolist() for name in names] + [column.tolist() for column in trades]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("synthetic:sesions=2", "unknown key 'sesions': expected sessions, markets, seconds, seed, rate, spread, tick"),
        ("synthetic:sessions=two", "sessions is 'two', expected a number"),
        ("synthetic:sessions=1.5", "sessions is '1.5', expected a number"),
        ("synthetic:sessions", "sessions is '', expected a number"),
        ("synthetic:markets=0", "markets is 0, expected 1 to"),
        ("synthetic:rate=nan", "rate is nan, expected"),
        ("synthetic:tick=0.5", "tick is 0.5 cents, expected 1 or 0.1"),
        ("synthetic:orders=1", "orders is 1, expected 2 to"),
        ("synthetic:imbalance=-1", "imbalance is -1.0, expected 0 to"),
        ("synthetic:like=stocks", "is like 'stocks': expected crypto or index or reversion"),
        ("synthetic:seed=1,like=crypto", "unknown key 'like': expected .*, or like=... before all others"),
        ("recording.jsonl", "expected synthetic:key=value"),
    ],
)
def test_a_wrong_specification_says_what_was_expected(spec, message):
    with pytest.raises(ValueError, match=message):
        list(synthetic_events(spec))


def test_a_specification_reads_back_and_has_defaults():
    config = SimConfig.parse("synthetic:sessions=2,tick=0.1,spread=1.5")
    assert config == SimConfig(sessions=2, tick=0.1, spread=1.5)
    assert SimConfig.parse(config.spec) == config
    assert SimConfig.parse("synthetic:") == SimConfig()
    crypto = SimConfig.parse("synthetic:like=crypto,sessions=2,rate=9")
    assert crypto == SimConfig.preset("crypto", sessions=2, rate=9.0)
    assert (crypto.seconds, crypto.sessions, crypto.rate) == (900, 2, 9.0)
    assert SimConfig.parse(crypto.spec) == crypto
    with pytest.raises(ValueError, match="expected crypto or index"):
        SimConfig.preset("stocks")


def test_the_same_seed_gives_the_same_session_whatever_is_simulated_beside_it():
    first, second = synthetic_events(SMALL)
    (alone,) = synthetic_events("synthetic:sessions=1,markets=3,seconds=60,seed=5")
    assert columns(first) == columns(alone)
    assert columns(second) == columns(simulate_session(SMALL, 1).events)
    assert columns(first) != columns(second)
    assert columns(first) != columns(next(synthetic_events("synthetic:markets=3,seconds=60,seed=6")))


PATTERNS = {"reversion": 10.0, "imbalance": 1.0, "bursts": 1.0, "stale": 5.0}
PLANTED = replace(SMALL, **PATTERNS, echo=0.4, regimes=0.5, size=2.5, reach=3.0, informed=0.2, orders=60)


@pytest.mark.parametrize("config", [SMALL, PLANTED])
def test_sessions_are_the_same_in_whatever_order_they_are_simulated(config):
    config = replace(config, sessions=4, seconds=20)
    in_order = [simulate_session(config, number) for number in range(4)]
    for number in (2, 0, 3, 1):
        again = simulate_session(config, number)
        assert columns(again.events) == columns(in_order[number].events)
        for name, column in vars(again.orders).items():
            assert column.tobytes() == getattr(in_order[number].orders, name).tobytes()
        assert again.settles_yes.tolist() == in_order[number].settles_yes.tolist()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_changes_the_books_but_not_how_markets_settle(pattern):
    without = [simulate_session(SMALL, number) for number in range(2)]
    planted = [simulate_session(replace(SMALL, **{pattern: PATTERNS[pattern]}), number) for number in range(2)]
    assert [columns(session.events) for session in planted] != [columns(session.events) for session in without]
    assert planted[0].settles_yes[0] == without[0].settles_yes[0]


def test_bursts_change_when_orders_come_and_nothing_else():
    def of_one_market(strength):
        events = simulate_session(replace(SMALL, bursts=strength), 0).events
        here = events.market == 1
        return events.time_ms[here], np.stack([events.kind, events.side, events.price, events.size])[:, here]

    (weak_ms, weak), (strong_ms, strong) = of_one_market(0.1), of_one_market(2.0)
    assert np.array_equal(weak, strong)
    assert not np.array_equal(weak_ms, strong_ms)


def test_a_thousand_markets_are_made_in_seconds_and_every_one_settles():
    config = SimConfig(sessions=1, markets=1000, seconds=600, rate=0.05, orders=20, seed=9)
    began = time.monotonic()
    simulated = simulate_session(config, 0)
    assert time.monotonic() - began < 20
    events = simulated.events
    assert len(np.unique(events.market)) == 1000
    assert (np.diff(events.time_ms) >= 0).all()
    assert events.report.snapshots == 2000
    assert 0.3 < simulated.settles_yes.mean() < 0.7
    replayed = replay(events)
    assert replayed.ends.all()
    assert replayed.negative_sizes == replayed.crossed_after == 0


def test_shadow_orders_change_nothing_and_are_followed_to_their_horizon():
    plan = ShadowPlan(per_market=10, contracts=7, horizon_ms=20_000)
    simulated = simulate_session(SMALL, 1, plan)
    assert columns(simulated.events) == columns(simulate_session(SMALL, 1).events)
    assert simulated.shadows == simulate_session(SMALL, 1, plan).shadows
    assert len(simulated.shadows) > 20
    assert {order.side for order in simulated.shadows} == {0, 1}
    filled = [order for order in simulated.shadows if order.fills]
    assert 0 < len(filled) < len(simulated.shadows)
    for order in simulated.shadows:
        assert 0 <= order.time_ms < 40_000
        assert order.ahead > 0
        assert sum(contracts for _, contracts, _ in order.fills) <= 7
        assert all(order.time_ms < ms <= order.time_ms + 20_000 for ms, _, _ in order.fills)
        assert all(0 <= beyond <= contracts for _, contracts, beyond in order.fills)
    with pytest.raises(ValueError, match="followed for 60000 ms: expected less than the session's 60000"):
        simulate_session(SMALL, 0, ShadowPlan(horizon_ms=60_000))


@pytest.mark.slow
def test_with_trade_prints_the_risk_averse_queue_never_fills_before_the_true_one():
    """A print explains decreases up to 100 ms before it, so that much earlier is possible, and no more."""
    settings = QueueModels(contracts=5, horizon_s=30, decision_ms=100, batch=256)
    config, plan = SimConfig(sessions=2, markets=2, seconds=300, seed=11), ShadowPlan(60, 5, 30_000)
    sessions = [simulate_session(config, number, plan) for number in range(2)]
    orders = columns_of([(number, order) for number in range(2) for order in sessions[number].shadows], 2, 100)
    tape, _ = build_tape(session.events for session in sessions)
    per_look = replay_orders(tape, orders, "risk_averse", 0, settings)  # checks price and place in the queue of each
    filled = per_look.sum(axis=1) > 0
    look = 1 + (per_look > 0).argmax(axis=1)
    assert filled.mean() > 0.4
    assert (orders.filled[filled] > 0).all()
    assert (look[filled] >= orders.look[filled] - 1).all()
    assert (look[filled] == orders.look[filled]).mean() > 0.3


@pytest.mark.parametrize(
    "config", [SMALL, PLANTED, SimConfig(1, 2, 120, seed=1, tick=0.1), SimConfig(1, 1, 60, 2, rate=0.05)]
)
def test_books_are_never_crossed_nor_negative_and_trades_come_off_the_book(config):
    for events in synthetic_events(config):
        assert events.synthetic
        books = [({}, {}) for _ in events.tickers]
        decreases = {}
        previous = -1
        for row in zip(*columns(events)[:6], strict=True):
            market, ms, kind, side, price, size = row
            assert ms >= previous
            if ms > previous:
                for yes, no in books:
                    assert max(yes, default=0) + max(no, default=0) < 10_000
            previous = ms
            assert size % 100 == 0
            if kind == Kind.CLEAR:
                books[market] = ({}, {})
                continue
            assert 0 < price < 10_000
            assert price % round(config.tick * 100) == 0
            book = books[market][side]
            book[price] = size if kind == Kind.SET else book.get(price, 0) + size
            assert book[price] >= 0
            if not book[price]:
                del book[price]
            if size < 0:
                decreases[market, ms, side, price] = decreases.get((market, ms, side, price), 0) - size
        assert books == [({}, {})] * len(books)  # every market ends with an empty snapshot
        trades = events.trades
        for market, ms, price, size, taker in zip(*columns(events)[6:], strict=True):
            maker = 1 - taker
            level = (market, ms, maker, price if maker == YES else 10_000 - price)
            decreases[level] -= size  # a decrease of the book explains every trade
            assert decreases[level] >= 0
        report = events.report
        assert (report.trades, report.snapshots) == (len(trades.market), 2 * config.markets)
        assert report.rows_read == report.snapshots + report.deltas + report.trades
        replayed = replay(events)
        assert replayed.negative_sizes == replayed.crossed_after == 0


def test_flow_has_bursts_and_quiet_times_and_about_the_wanted_rate():
    config = SimConfig(sessions=1, markets=3, seconds=600, rate=6.0)
    events = simulate_session(config, 0).events
    gaps = np.diff(np.unique(events.time_ms[events.market == 0]))
    assert (gaps < 100).mean() > 0.2
    assert gaps.max() > 8_000
    assert 0.7 < events.report.deltas / (config.rate * config.seconds * config.markets) < 2.0


def test_the_fair_value_is_a_bounded_martingale_that_settles():
    rng = np.random.default_rng(0)
    activity = rng.uniform(0.1, 5.0, 60)
    looks = np.array([0, 7, 30, 55, 60])
    paths = np.array([fair_values(rng, activity, looks) for _ in range(8_000)])
    assert np.isin(paths[:, -1], [0.0, 100.0]).all()
    assert (np.abs(paths - 50) <= 50).all()
    assert (np.abs(paths[:, :3] - 50) < 50).all()  # towards the end, double precision runs out
    moves = np.diff(paths, axis=1)
    error = moves.std(axis=0) / np.sqrt(len(paths))
    assert (np.abs(moves.mean(axis=0)) < 4 * error).all()
    for low in (10, 40, 70):  # and from wherever it stands: a price of p wins p percent of the time
        here = (paths[:, 2] > low) & (paths[:, 2] < low + 20)
        drift = paths[here, -1] - paths[here, 2]
        assert abs(drift.mean()) < 4 * drift.std() / np.sqrt(here.sum())


def test_books_follow_the_fair_value_to_the_settlement():
    wins = []
    for session in range(4):
        simulated = simulate_session(SimConfig(markets=3, seconds=120, seed=8), session)
        replayed = replay(simulated.events)
        for market, settles_yes in enumerate(simulated.settles_yes):
            rows = slice(replayed.first_row[market], replayed.first_row[market + 1] - 1)
            bids = replayed.best[:, rows][:, -1].astype(int)
            mid = (bids[0] + (10_000 - bids[1])) / 2
            wins.append((mid > 5_000) == settles_yes)
    assert np.mean(wins) > 0.8


def test_frames_are_a_recording_of_the_same_session(tmp_path):
    path = tmp_path / "sim.jsonl.gz"
    simulated = write_frames(SMALL, path, session=1)
    again = tmp_path / "again.jsonl.gz"
    write_frames(SMALL, again, session=1)
    assert gzip.decompress(path.read_bytes()) == gzip.decompress(again.read_bytes())
    events, read = simulated.events, read_recording(path)
    assert read.report.dropped == {}
    assert read.report.sequence_gaps == 0
    assert (read.report.snapshots, read.report.deltas) == (events.report.snapshots, events.report.deltas)
    assert read.report.tickers > 20
    assert read.tickers == [events.tickers[m] for m in dict.fromkeys(events.market.tolist())]
    order = {ticker: m for m, ticker in enumerate(read.tickers)}
    renumbered = [
        [order[events.tickers[m]] for m in events.market],
        [order[events.tickers[m]] for m in events.trades.market],
    ]
    mine, theirs = columns(events), columns(read)
    assert [renumbered[0], *mine[1:6]] == theirs[:6]
    assert [renumbered[1], *mine[7:]] == theirs[6:]


def test_ticker_frames_quote_the_book(tmp_path):
    path = tmp_path / "sim.jsonl.gz"
    write_frames(SMALL, path)
    tape, index = load_tape(path)
    frames = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert frames[0]["msg"]["simulated"] == SMALL.spec
    tickers = [frame["msg"] for frame in frames if frame["type"] == "ticker"]
    for message in tickers:
        book = book_at(tape, index, message["market_ticker"], message["ts_ms"])
        (yes_bid, yes_size), (no_bid, no_size) = (side[0] if side else (0, 0) for side in (book.yes_bids, book.no_bids))
        assert (float(message["yes_bid_dollars"]) * 100, float(message["yes_bid_size_fp"])) == pytest.approx(
            (yes_bid, yes_size)
        )
        assert 100 - float(message["yes_ask_dollars"]) * 100 == pytest.approx(no_bid)
        assert float(message["yes_ask_size_fp"]) == no_size
    assert len(tickers) > 20


def test_the_default_sessions_are_made_in_seconds():
    began = time.monotonic()
    sessions = list(synthetic_events("synthetic:sessions=8,markets=3,seconds=600,seed=0"))
    assert time.monotonic() - began < 10
    assert len(sessions) == 8
    assert sum(events.report.deltas for events in sessions) > 80_000


def test_the_mid_goes_on_where_makers_lag_and_does_not_where_they_do_not():
    def going_on(stale):
        moved = []
        for session in range(12):
            events = simulate_session(SimConfig(markets=1, seconds=300, seed=3, stale=stale), session).events
            replayed = replay(events)
            rows = slice(replayed.first_row[0], replayed.first_row[1] - 1)
            bids, time_ms = replayed.best[:, rows].astype(int), replayed.time_ms[rows]
            mid = (bids[0] + 10_000 - bids[1]) / 200
            moved.append(mid[np.searchsorted(time_ms - time_ms[0], np.arange(20, 290, 10) * 1000, side="right") - 1])
        steps = np.diff(np.array(moved), axis=1)
        return np.sum(steps[:, 1:] * steps[:, :-1]) / np.sum(steps**2)

    assert going_on(20.0) > 0.3
    assert abs(going_on(0.0)) < 0.15
