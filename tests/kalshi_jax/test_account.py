"""The live tracker: EXCHANGE.md's identities in exact Python integers, the exchange's four reports, and what is refused."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kalshi_jax.account import update_from_fill, update_from_kalshi_api, update_from_websocket
from kalshi_jax.ledger import MAX_WEALTH, open_account, portfolio_value, unrealized_pnl

DOLLAR = 10_000
SLOTS = {"KXA": 0, "KXB": 1}
ACTIONS = [("yes", "buy"), ("yes", "sell"), ("no", "buy"), ("no", "sell")]


def empty(cash=10_000 * DOLLAR):
    return open_account(cash, 2)


def fields(ledger):
    """Every field as Python integers: cash, then per slot position, cost, realized P&L, fees."""
    columns = (ledger.position, ledger.cost_basis, ledger.realized_pnl, ledger.fees_paid)
    return int(ledger.cash), [tuple(int(column[slot]) for column in columns) for slot in range(2)]


@dataclass
class Exact:
    """EXCHANGE.md section 5 in integers of any size; raises nothing, wraps nothing."""

    cash: int
    slots: list[tuple[int, int, int, int]]  # q, K, R, fees

    def fill(self, slot, side, action, contracts, price, fee):
        q, cost, realized, fees = self.slots[slot]
        p = price if side == "yes" else DOLLAR - price
        d = contracts if (side, action) in (("yes", "buy"), ("no", "sell")) else -contracts
        close = min(abs(d), abs(q)) if d * q < 0 else 0
        closed = cost * close // abs(q) if close else 0
        cost += (abs(d) - close) * (p if d > 0 else DOLLAR - p) - closed
        realized += close * (p if q > 0 else DOLLAR - p) - closed
        cash = self.cash - p * d - DOLLAR * (max(-q - d, 0) - max(-q, 0)) - fee
        slots = list(self.slots)
        slots[slot] = (q + d, cost, realized, fees + fee)
        return Exact(cash, slots)

    def fits(self):
        wealth = self.cash + DOLLAR * sum(abs(q) for q, *_ in self.slots)
        small = all(abs(x) < 2**31 for slot in self.slots for x in slot)
        return self.cash >= 0 and wealth <= MAX_WEALTH and small

    def value(self, marks):
        return self.cash + sum(DOLLAR * max(-q, 0) + q * m for (q, *_), m in zip(self.slots, marks, strict=True))


def random_fills(seed, count, largest):
    """Draw fills of every price, sizes spread evenly over magnitudes, fees up to a few cents a contract."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        contracts = min(int(np.exp(rng.uniform(0, np.log(largest + 1)))), largest)
        price = int(rng.choice([1, 9_999, rng.integers(1, DOLLAR)], p=[0.05, 0.05, 0.9]))
        side, action = ACTIONS[rng.integers(4)]
        yield int(rng.integers(2)), side, action, contracts, price, int(rng.integers(0, 200)) * contracts


@given(
    st.integers(0, 2**32),
    st.integers(1, 1_000),
    st.sampled_from([10, 1_000, 100_000]),
    st.sampled_from([0, DOLLAR, 10_000 * DOLLAR, MAX_WEALTH // 2, MAX_WEALTH]),
)
@example(1, 1_000, 100_000, MAX_WEALTH // 2)
@example(2, 1_000, 1_000, MAX_WEALTH // 2)
@settings(max_examples=12)
def test_a_thousand_fills_keep_every_identity_and_what_does_not_fit_is_refused(seed, count, largest, cash):
    ledger, exact, booked = empty(cash), Exact(cash, [(0, 0, 0, 0)] * 2), 0
    rng = np.random.default_rng(seed)
    for fill in random_fills(seed, count, largest):
        after = exact.fill(*fill)
        if not after.fits():
            with pytest.raises(ValueError, match=f"slot {fill[0]}: "):
                update_from_fill(ledger, *fill)
            continue
        slot, side, _, _, price, fee = fill
        marks = [int(m) for m in rng.integers(0, DOLLAR + 1, 2)]
        marks[slot] = price if side == "yes" else DOLLAR - price
        assert after.value(marks) == exact.value(marks) - fee, "at its own price a trade costs its fee and no more"
        ledger, exact, booked = update_from_fill(ledger, *fill), after, booked + 1
        if booked % 20 == 1:
            assert fields(ledger) == (exact.cash, exact.slots)
    assert fields(ledger) == (exact.cash, exact.slots)
    for marks in ([0, 0], [DOLLAR, DOLLAR], [int(m) for m in rng.integers(0, DOLLAR + 1, 2)]):
        at = jnp.array(marks, jnp.int32)
        value = int(portfolio_value(ledger, at))
        assert value == exact.value(marks) >= 0
        gains = int(np.asarray(ledger.realized_pnl, np.int64).sum() - np.asarray(ledger.fees_paid, np.int64).sum())
        assert value == cash + gains + int(np.asarray(unrealized_pnl(ledger, at), np.int64).sum())


def test_the_bound_is_met_from_both_sides():
    """Of the long sequences above some fills are booked and some refused, at the largest sizes too."""
    exact, booked, refused = Exact(MAX_WEALTH // 2, [(0, 0, 0, 0)] * 2), 0, 0
    for fill in random_fills(1, 1_000, 100_000):
        after = exact.fill(*fill)
        exact, booked, refused = (after, booked + 1, refused) if after.fits() else (exact, booked, refused + 1)
    assert booked > 100
    assert refused > 50


@given(st.integers(1, 100_000), st.integers(1, 9_999), st.integers(-50_000, 50_000), st.integers(0, 10**6))
def test_buying_yes_is_selling_no_in_every_field(contracts, price, held, fee):
    start = empty(MAX_WEALTH // 4)
    if held:
        start = update_from_fill(start, 0, "yes" if held > 0 else "no", "buy", abs(held), 5_000)
    for buy, sell in (("yes", "no"), ("no", "yes")):
        outcomes = []
        for side, action, at in ((buy, "buy", price), (sell, "sell", DOLLAR - price)):
            try:
                outcomes.append(fields(update_from_fill(start, 0, side, action, contracts, at, fee)))
            except ValueError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]


@given(st.integers(1, 9_999), st.integers(1, 9_999), st.integers(1, 100_000))
def test_a_pair_changes_cash_by_a_dollar_less_both_prices(a, b, contracts):
    start = empty(MAX_WEALTH // 2)
    paired = update_from_fill(update_from_fill(start, 0, "yes", "buy", contracts, a), 0, "no", "buy", contracts, b)
    gain = contracts * (DOLLAR - a - b)
    assert fields(paired) == (MAX_WEALTH // 2 + gain, [(0, 0, gain, 0), (0, 0, 0, 0)])


@given(st.integers(0, 2**32), st.sampled_from([0, 2_500, DOLLAR]))
@settings(max_examples=20)
def test_a_closed_set_of_counterparties_keeps_its_money_less_fees(seed, settlement):
    ours = theirs = empty(MAX_WEALTH // 8)
    other_side = {"yes": "no", "no": "yes"}
    for slot, side, _, contracts, price, fee in random_fills(seed, 50, 300):
        ours = update_from_fill(ours, slot, side, "buy", contracts, price, fee)
        theirs = update_from_fill(theirs, slot, other_side[side], "buy", contracts, DOLLAR - price, fee)
    at = jnp.full(2, settlement, jnp.int32)
    fees = sum(int(ledger.fees_paid.sum()) for ledger in (ours, theirs))
    assert sum(int(portfolio_value(ledger, at)) for ledger in (ours, theirs)) == 2 * (MAX_WEALTH // 8) - fees


def test_the_examples_of_the_specification():
    ten_yes = update_from_fill(empty(), 0, "yes", "buy", 10, 4_500)
    assert int(update_from_fill(ten_yes, 0, "no", "buy", 5, 4_800).position[0]) == 5
    netted = update_from_fill(ten_yes, 0, "no", "buy", 10, 4_800)
    assert int(netted.cash) - 10_000 * DOLLAR == 7_000, "70 cents earned, not $9.30 lost"
    no = update_from_fill(empty(), 1, "no", "buy", 4, 3_000)
    assert fields(no)[1][1] == (-4, 12_000, 0, 0)
    assert int(update_from_fill(no, 1, "no", "sell", 4, 3_500).realized_pnl[1]) == 2_000


# -- the exchange's reports


OLD = {
    "ticker": "KXA",
    "position": -7,
    "market_exposure": 301,
    "realized_pnl": -45,
    "fees_paid": 12,
    "total_traded": 99_999,
}
NEW = {
    "ticker": "KXA",
    "position_fp": "-7.00",
    "market_exposure_dollars": "3.0100",
    "realized_pnl_dollars": "-0.450000",
    "fees_paid_dollars": "0.12",
}
SOCKET_OLD = {
    "type": "market_position",
    "sid": 14,
    "msg": {
        "market_ticker": "KXA",
        "position": -7,
        "position_cost": 30_100,
        "realized_pnl": -4_500,
        "fees_paid": 1_200,
    },
}
SOCKET_NEW = {
    "type": "market_position",
    "msg": {
        "market_ticker": "KXA",
        "position_fp": "-7.00",
        "position_cost_dollars": "3.0100",
        "realized_pnl_dollars": "-0.4500",
        "fees_paid_dollars": "0.1200",
    },
}
READ = (-7, 30_100, -4_500, 1_200)


def test_all_four_reports_say_the_same():
    before = update_from_fill(empty(), 1, "yes", "buy", 3, 2_000)
    after = [
        update_from_kalshi_api(before, SLOTS, {"market_positions": [OLD], "cursor": ""}),
        update_from_kalshi_api(before, SLOTS, [NEW]),
        update_from_kalshi_api(before, SLOTS, [OLD | NEW | {"position": 0, "fees_paid": 13}]),  # the exact form counts
        update_from_websocket(before, SLOTS, SOCKET_OLD),
        update_from_websocket(before, SLOTS, SOCKET_OLD["msg"]),
        update_from_websocket(before, SLOTS, SOCKET_NEW),
    ]
    cash, slots = fields(before)
    for ledger in after:
        assert fields(ledger) == (cash, [READ, slots[1]])
        assert jax.tree.map(jnp.shape, ledger) == jax.tree.map(jnp.shape, before)
        assert {x.dtype for x in jax.tree.leaves(ledger)} == {jnp.dtype("int32")}


@given(st.integers(0, 2**32), st.integers(1, 60))
@settings(max_examples=20)
def test_a_report_of_what_fills_made_changes_nothing(seed, count):
    ledger = empty(MAX_WEALTH // 8)
    for fill in random_fills(seed, count, 200):
        ledger = update_from_fill(ledger, *fill)

    def dollars(amount):
        return f"{'-' * (amount < 0)}{abs(amount) // DOLLAR}.{abs(amount) % DOLLAR:04d}"

    socket, rest = empty(int(ledger.cash)), []
    for ticker, (q, cost, realized, fees) in zip(SLOTS, fields(ledger)[1], strict=True):
        message = {"position": q, "position_cost": cost, "realized_pnl": realized, "fees_paid": fees}
        socket = update_from_websocket(socket, SLOTS, {"market_ticker": ticker, **message})
        named = {"market_exposure": cost, "realized_pnl": realized, "fees_paid": fees}
        record = {f"{name}_dollars": dollars(amount) for name, amount in named.items()}
        rest.append({"ticker": ticker, "position_fp": f"{q}.00", **record})
    assert fields(socket) == fields(ledger)
    assert fields(update_from_kalshi_api(empty(int(ledger.cash)), SLOTS, {"market_positions": rest})) == fields(ledger)


BAD_API = {
    "no such ticker": (OLD | {"ticker": "KXZ"}, "KXZ.*ignore_unknown"),
    "no ticker": ({"position": 1}, "text field ticker"),
    "position missing": ({k: v for k, v in OLD.items() if k != "position"}, "KXA.*position_fp nor position"),
    "cost missing": ({k: v for k, v in NEW.items() if "exposure" not in k}, "KXA.*market_exposure_dollars nor"),
    "total_traded is not the cost": ({k: v for k, v in OLD.items() if k != "market_exposure"}, "market_exposure"),
    "NaN": (OLD | {"fees_paid": float("nan")}, "KXA.*fees_paid=nan"),
    "a float": (OLD | {"position": -7.0}, "KXA.*position=-7.0"),
    "a truth value": (OLD | {"position": True}, "KXA.*position=True"),
    "None": (OLD | {"realized_pnl": None}, "KXA.*realized_pnl=None"),
    "NaN text": (NEW | {"fees_paid_dollars": "NaN"}, "KXA.*fees_paid_dollars='NaN'"),
    "infinite": (NEW | {"fees_paid_dollars": "Infinity"}, "Infinity"),
    "an exponent": (NEW | {"fees_paid_dollars": "1e3"}, "1e3"),
    "a number where text is due": (NEW | {"fees_paid_dollars": 0.12}, "fees_paid_dollars=0.12"),
    "empty text": (NEW | {"position_fp": ""}, "position_fp=''"),
    "half a contract": (NEW | {"position_fp": "-7.50"}, "KXA.*position_fp='-7.50'.*contracts"),
    "below 0.01 cent": (NEW | {"realized_pnl_dollars": "0.00005"}, "KXA.*0.00005.*0.01 cent"),
    "digits past any double": (NEW | {"realized_pnl_dollars": "0.100000000000001"}, "0.01 cent"),
    "more than a dollar a contract": (OLD | {"market_exposure": 30_100}, "KXA.*market_exposure=3010000"),
    "a negative cost": (OLD | {"market_exposure": -301}, "market_exposure=-30100"),
    "negative fees": (OLD | {"fees_paid": -1}, "fees_paid=-100"),
    "too many contracts": (OLD | {"position": 200_001}, "position=200001"),
    "beyond int32": (OLD | {"realized_pnl": 2**31 // 100 + 1}, "realized_pnl=2147483700"),
    "beyond any integer": (NEW | {"realized_pnl_dollars": "9" * 5_000}, "realized_pnl_dollars"),
    "past the bound with the cash": (OLD | {"position": 199_999}, "beyond the ledger's bound"),
}


@pytest.mark.parametrize("case", BAD_API)
def test_what_is_not_exact_is_refused(case):
    record, message = BAD_API[case]
    with pytest.raises(ValueError, match=message):
        update_from_kalshi_api(empty(), SLOTS, [record])


def test_what_is_no_position_report_is_refused():
    for payload in ({"positions": []}, {"market_positions": "KXA"}, {"market_positions": ["KXA"]}):
        with pytest.raises(ValueError, match=r"market_positions|position 'KXA'"):
            update_from_kalshi_api(empty(), SLOTS, payload)
    with pytest.raises(ValueError, match="'fill'"):
        update_from_websocket(empty(), SLOTS, SOCKET_OLD | {"type": "fill"})
    with pytest.raises(ValueError, match="KXZ"):
        update_from_websocket(empty(), SLOTS, SOCKET_OLD["msg"] | {"market_ticker": "KXZ"})
    with pytest.raises(ValueError, match="as a mapping"):
        update_from_websocket(empty(), SLOTS, "market_position")
    for slot in (2, -1):
        with pytest.raises(ValueError, match="KXA: slot"):
            update_from_websocket(empty(), {"KXA": slot}, SOCKET_OLD)


def test_unknown_tickers_are_left_out_when_asked():
    payload = [OLD | {"ticker": "KXZ", "position": "whatever"}, OLD]
    assert fields(update_from_kalshi_api(empty(), SLOTS, payload, ignore_unknown=True))[1][0] == READ
    message = SOCKET_OLD["msg"] | {"market_ticker": "KXZ"}
    assert fields(update_from_websocket(empty(), SLOTS, message, ignore_unknown=True)) == fields(empty())


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        ((0, "maybe", "buy", 1, 5_000, 0), "side='maybe'"),
        ((0, "yes", "hold", 1, 5_000, 0), "action='hold'"),
        ((2, "yes", "buy", 1, 5_000, 0), "slot=2"),
        ((-1, "yes", "buy", 1, 5_000, 0), "slot=-1"),
        ((0, "yes", "buy", 0, 5_000, 0), "contracts=0"),
        ((0, "yes", "buy", 2.0, 5_000, 0), "contracts=2.0"),
        ((0, "yes", "buy", 200_001, 1, 0), "contracts=200001"),
        ((0, "yes", "buy", 1, 0, 0), "price=0"),
        ((0, "yes", "buy", 1, DOLLAR, 0), "price=10000"),
        ((0, "yes", "buy", 1, 5_000, -1), "fee=-1"),
        ((0, "yes", "buy", 1, 5_000, 2**31), "fee=2147483648"),
        ((0, "yes", "buy", 20_000, 5_001, 0), "set ledger.cash"),
        ((0, "no", "sell", 20_000, 4_999, 0), "set ledger.cash"),
    ],
)
def test_fills_out_of_range_are_refused(fill, message):
    with pytest.raises(ValueError, match=message):
        update_from_fill(empty(), *fill)


def test_sums_that_would_wrap_are_refused():
    full = jnp.array([2**31 - 5, 0], jnp.int32)
    with pytest.raises(ValueError, match="fees_paid would be 2147483648"):
        update_from_fill(replace(empty(), fees_paid=full), 0, "yes", "buy", 1, 5_000, 5)
    held = replace(update_from_fill(empty(), 0, "yes", "buy", 1, 5_000), realized_pnl=full)
    with pytest.raises(ValueError, match="realized_pnl would be 2147483648"):
        update_from_fill(held, 0, "yes", "sell", 1, 5_005)
    with pytest.raises(ValueError, match="bound 2000000000"):
        update_from_fill(empty(MAX_WEALTH - DOLLAR), 0, "yes", "buy", 2, 1)
