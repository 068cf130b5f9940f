"""Section 5 of the exchange's facts, identity by identity, over sequences of a thousand fills of up to 100,000 contracts.

What fills do is computed twice: in Python integers, which have no bound, and by the ledger's int32 in one compiled program over a
batch of sequences. A fill is booked exactly where the live tracker books it: where cash, the bound on wealth and int32 hold.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kalshi_jax.account import update_from_fill
from kalshi_jax.ledger import MAX_WEALTH, Ledger, Trade, book_trades, open_account, portfolio_value, unrealized_pnl

DOLLAR, INT32 = 10_000, 2**31 - 1
FILLS, BATCH, SLOTS = 1_000, 8, 2
CASH = st.sampled_from([0, DOLLAR, 10_000 * DOLLAR, MAX_WEALTH // 2, MAX_WEALTH])
PRICES = st.integers(1, DOLLAR - 1)
CONTRACTS = st.integers(1, 100_000)


@dataclass
class Exact:
    """An account in integers of any size. A slot holds position q, cost K, realized P&L R and fees."""

    cash: int
    slots: list[tuple[int, int, int, int]] = field(default_factory=lambda: [(0, 0, 0, 0)] * SLOTS)

    def after(self, slot, d, p, fee):
        """The account after a trade of d contracts (+ buys YES, - buys NO) at YES price p."""
        q, cost, realized, fees = self.slots[slot]
        close = min(abs(d), abs(q)) if d * q < 0 else 0
        cost_closed = cost * close // max(abs(q), 1)
        slots = list(self.slots)
        slots[slot] = (
            q + d,
            cost - cost_closed + (abs(d) - close) * (p if d > 0 else DOLLAR - p),
            realized + close * (p if q > 0 else DOLLAR - p) - cost_closed,
            fees + fee,
        )
        return Exact(self.cash - p * d - DOLLAR * (max(-q - d, 0) - max(-q, 0)) - fee, slots)

    def fits(self):
        wealth = self.cash + DOLLAR * sum(abs(q) for q, *_ in self.slots)
        return self.cash >= 0 and wealth <= MAX_WEALTH and all(abs(x) <= INT32 for s in self.slots for x in s)

    def row(self):
        return [self.cash, *(x for column in zip(*self.slots, strict=True) for x in column)]

    def ledger(self):
        return Ledger(jnp.int32(self.cash), *(jnp.array(column, jnp.int32) for column in zip(*self.slots, strict=True)))


def row_of(ledger):
    columns = (ledger.position, ledger.cost_basis, ledger.realized_pnl, ledger.fees_paid)
    return [int(ledger.cash), *(int(x) for column in columns for x in column)]


def draw_fills(rng, count, largest):
    """Fills (slot, d, p, fee): every price, sizes even over magnitudes, runs on one side so that the bound is met."""
    size = np.minimum(np.exp(rng.uniform(0, np.log(largest + 1), count)).astype(int), largest)
    size[rng.random(count) < 0.1] = largest
    direction = np.where(np.repeat(rng.random(count // 10 + 1) < 0.5, 10)[:count] ^ (rng.random(count) < 0.25), 1, -1)
    price = np.where(rng.random(count) < 0.1, rng.choice([1, DOLLAR - 1], count), rng.integers(1, DOLLAR, count))
    fee = rng.integers(0, 200, count) * size * (rng.random(count) < 0.5)
    return np.stack([rng.integers(0, SLOTS, count), direction * size, price, fee], axis=1).tolist()


def follow(cash, fills):
    """Follow an account exactly: what was booked (0 contracts where refused), the accounts before each fill and the last."""
    accounts, booked = [Exact(cash)], []
    for slot, d, p, fee in fills:
        after = accounts[-1].after(slot, d, p, fee)
        fits = after.fits()
        booked.append((slot, d, p, fee) if fits else (slot, 0, p, 0))
        accounts.append(after if fits else accounts[-1])
    return booked, accounts


@jax.jit
def book_all(cash, fills, marks):
    """Book fills i32[T, B, 4] from cash i32[]; the ledgers [T, B, ...] and what they are worth at marks i32[T, B, M]."""

    def one(ledger, fill):
        slot, d, p, fee = fill
        here = jnp.arange(SLOTS) == slot
        close = jnp.clip(-jnp.sign(d) * ledger.position, 0, jnp.abs(d))
        columns = (jnp.sign(d), jnp.abs(d), jnp.abs(d) * p, close * p, fee)
        return book_trades(ledger, Trade(*(jnp.where(here, column, 0) for column in columns)))

    def step(ledgers, now):
        ledgers = jax.vmap(one)(ledgers, now[0])
        return ledgers, (ledgers, jax.vmap(portfolio_value)(ledgers, now[1]), jax.vmap(unrealized_pnl)(ledgers, now[1]))

    start = jax.vmap(lambda c: open_account(c, SLOTS))(jnp.full(BATCH, cash))
    return jax.lax.scan(step, start, (fills, marks))[1]


@given(st.integers(0, 2**32), CASH, st.sampled_from([10, 1_000, 100_000]))
@example(0, MAX_WEALTH // 2, 100_000)
@example(1, MAX_WEALTH, 100_000)
@example(2, MAX_WEALTH // 2, 1_000)
@settings(max_examples=10)
def test_a_thousand_fills_of_any_price_and_size_are_booked_exactly_and_keep_every_identity(seed, cash, largest):
    rng = np.random.default_rng(seed)
    sequences = [draw_fills(rng, FILLS, largest) for _ in range(BATCH)]
    followed = [follow(cash, fills) for fills in sequences]
    booked = np.array([booked for booked, _ in followed]).swapaxes(0, 1)  # [T, B, 4]
    exact = np.array([[a.row() for a in accounts] for _, accounts in followed]).swapaxes(0, 1)  # [T + 1, B, 1 + 4 M]
    slot, _, p, fee = np.moveaxis(booked, -1, 0)
    marks = rng.integers(0, DOLLAR + 1, (FILLS, BATCH, SLOTS))
    np.put_along_axis(marks, slot[..., None], p[..., None], axis=-1)  # the market just traded is marked at its price

    ledgers, value, gain = jax.device_get(
        book_all(jnp.int32(cash), jnp.asarray(booked, jnp.int32), jnp.asarray(marks, jnp.int32))
    )
    got = np.concatenate(
        [ledgers.cash[..., None], ledgers.position, ledgers.cost_basis, ledgers.realized_pnl, ledgers.fees_paid], -1
    )
    np.testing.assert_array_equal(got, exact[1:])

    def worth(q, mark):
        return (DOLLAR * np.maximum(-q, 0) + q * mark).sum(-1)

    money, q, cost, realized, fees = (exact[:, :, 0], *np.split(exact[:, :, 1:], 4, axis=-1))
    np.testing.assert_array_equal(value, money[1:] + worth(q[1:], marks), "value is cash and holdings at their marks")
    np.testing.assert_array_equal(
        money[1:] + worth(q[1:], marks),
        money[:-1] + worth(q[:-1], marks) - fee,
        "at its own price a trade costs its fee",
    )
    np.testing.assert_array_equal(value, cash + (realized - fees)[1:].sum(-1) + gain.astype(np.int64).sum(-1))
    assert (money >= 0).all()
    assert (cost >= 0).all()
    assert (cost <= DOLLAR * np.abs(q)).all()
    assert (fees[-1].sum(-1) == fee.sum(0)).all()


@given(st.integers(0, 2**32), CASH, st.sampled_from([1_000, 100_000]))
@settings(max_examples=10)
def test_a_fill_that_does_not_fit_is_refused_and_leaves_the_ledger(seed, cash, largest):
    rng = np.random.default_rng(seed)
    fills = draw_fills(rng, FILLS, largest)
    booked, accounts = follow(cash, fills)
    chosen = set(rng.choice(FILLS, 12).tolist()) | {i for i, fill in enumerate(booked) if fill[1] == 0 and i % 50 == 0}
    for i in sorted(chosen):
        slot, d, p, fee = fills[i]
        before = accounts[i].ledger()
        side, price = ("yes", p) if rng.random() < 0.5 else ("no", DOLLAR - p)
        action = "buy" if (side == "yes") == (d > 0) else "sell"
        if booked[i][1] == 0 or fee > INT32:
            with pytest.raises(ValueError, match=f"slot {slot}: "):
                update_from_fill(before, slot, side, action, abs(d), price, fee)
            assert row_of(before) == accounts[i].row()
        else:
            assert row_of(update_from_fill(before, slot, side, action, abs(d), price, fee)) == accounts[i + 1].row()


def test_long_sequences_meet_the_bound_and_netting():
    """The sequences above are worth something: many of their fills are booked, many refused, many close a holding."""
    for largest, at_least in ((100_000, 50), (1_000, 500)):
        booked, accounts = follow(MAX_WEALTH // 2, draw_fills(np.random.default_rng(0), FILLS, largest))
        q = np.array([[slot[0] for slot in account.slots] for account in accounts])
        kept = [fill for fill in booked if fill[1]]
        assert len(kept) > at_least
        assert largest < 100_000 or len(kept) < FILLS - 100
        closing = np.abs(q[1:]).sum(-1) < np.abs(q[:-1]).sum(-1)
        assert closing.sum() > at_least / 4
        assert (q.min(0) < 0).all()
        assert (q.max(0) > 0).all()


# -- the identities one by one, by the live tracker


def account(held, cash=MAX_WEALTH // 2):
    """An account that holds `held` contracts (+YES, -NO) of slot 0, bought at 37 cents of YES."""
    exact = Exact(cash).after(0, held, 3_700, 0)
    assume(exact.fits())
    return exact.ledger()


def filled(ledger, side, action, contracts, price, fee=0):
    """The account after a fill, or None where it is refused."""
    try:
        return row_of(update_from_fill(ledger, 0, side, action, contracts, price, fee))
    except ValueError:
        return None


@given(
    st.integers(-60_000, 60_000), CONTRACTS, PRICES, st.sampled_from(["yes", "no"]), st.sampled_from(["buy", "sell"])
)
@settings(max_examples=50)
def test_a_free_trade_at_a_price_leaves_value_at_that_price(held, contracts, price, side, action):
    before = account(held)
    mark = price if side == "yes" else DOLLAR - price
    if row := filled(before, side, action, contracts, price):
        q = row[1]
        assert row[0] + DOLLAR * max(-q, 0) + q * mark == int(portfolio_value(before, jnp.array([mark, 0])))


@given(st.integers(-60_000, 60_000), CONTRACTS, PRICES, st.integers(0, 10**6))
@settings(max_examples=50)
def test_buying_yes_is_selling_no_at_a_dollar_less_the_price_in_every_field(held, contracts, price, fee):
    before = account(held)
    for buy, sell in (("yes", "no"), ("no", "yes")):
        bought = filled(before, buy, "buy", contracts, price, fee)
        assert bought == filled(before, sell, "sell", contracts, DOLLAR - price, fee)


@given(PRICES, PRICES, CONTRACTS)
@settings(max_examples=50)
def test_yes_at_a_and_no_at_b_change_cash_by_a_dollar_less_both_per_pair(a, b, contracts):
    start = open_account(MAX_WEALTH // 2, SLOTS)
    paired = update_from_fill(update_from_fill(start, 0, "yes", "buy", contracts, a), 0, "no", "buy", contracts, b)
    gain = contracts * (DOLLAR - a - b)
    assert row_of(paired) == [MAX_WEALTH // 2 + gain, 0, 0, 0, 0, gain, 0, 0, 0]


@given(st.integers(0, 50_000), st.integers(1, 50_000), PRICES, st.integers(0, 10**6))
@settings(max_examples=50)
def test_selling_more_yes_than_held_needs_the_cash_that_buying_no_needs(held, short, price, fee):
    needs = short * (DOLLAR - price) + fee - held * price  # what the sale of the holding brings pays for some of it
    assume(needs > 0)
    empty = Exact(needs, [(held, held * 5_000, 0, 0), (0, 0, 0, 0)])
    assume(needs + DOLLAR * held <= MAX_WEALTH)
    row = filled(empty.ledger(), "yes", "sell", held + short, price, fee)
    assert row is not None
    assert row[:2] == [0, -short]
    one_less = Exact(needs - 1, empty.slots)
    assert filled(one_less.ledger(), "yes", "sell", held + short, price, fee) is None
    assert filled(one_less.ledger(), "no", "buy", held + short, DOLLAR - price, fee) is None


@given(PRICES, CONTRACTS, st.sampled_from(["yes", "no"]))
@settings(max_examples=20)
def test_wealth_and_sums_reach_their_bounds_and_not_one_unit_more(price, contracts, side):
    cash = MAX_WEALTH - contracts * (DOLLAR - price)  # what a contract is worth at most above its price
    assume(cash >= contracts * price)
    row = filled(Exact(cash).ledger(), side, "buy", contracts, price)
    assert row is not None
    assert row[0] + DOLLAR * abs(row[1]) == MAX_WEALTH
    assert filled(Exact(cash + 1).ledger(), side, "buy", contracts, price) is None
    assert filled(Exact(cash + 1).ledger(), side, "buy", contracts, price, fee=1) is not None
    nearly = Exact(DOLLAR, [(0, 0, 0, INT32 - 7), (0, 0, 0, 0)]).ledger()
    assert filled(nearly, side, "buy", 1, 1, fee=7) is not None
    assert filled(nearly, side, "buy", 1, 1, fee=8) is None


@given(st.integers(0, 2**32), st.lists(st.sampled_from([0, DOLLAR, 2_500]), min_size=SLOTS, max_size=SLOTS))
@settings(max_examples=10)
def test_a_closed_set_of_counterparties_shares_a_constant_less_fees(seed, settlements):
    """Members trade with each other at random; what all hold in the end, paid out, is what they brought less their fees."""
    rng = np.random.default_rng(seed)
    members, brought = [Exact(MAX_WEALTH // 8) for _ in range(BATCH)], BATCH * (MAX_WEALTH // 8)
    trades = [[] for _ in members]
    for slot, d, p, fee in draw_fills(rng, FILLS, 1_000):
        one, other = rng.choice(BATCH, 2, replace=False)
        after = {one: members[one].after(slot, d, p, fee), other: members[other].after(slot, -d, p, fee // 2)}
        if all(account.fits() for account in after.values()):
            for member, account, sign, paid in ((one, after[one], 1, fee), (other, after[other], -1, fee // 2)):
                members[member] = account
                trades[member].append((slot, sign * d, p, paid))
    width = max(len(own) for own in trades)
    assert 100 < width <= FILLS
    padded = [own + [(0, 0, 1, 0)] * (FILLS - len(own)) for own in trades]
    marks = np.broadcast_to(settlements, (FILLS, BATCH, SLOTS))
    ledgers, value, _ = jax.device_get(
        book_all(
            jnp.int32(MAX_WEALTH // 8), jnp.asarray(np.array(padded).swapaxes(0, 1), jnp.int32), jnp.asarray(marks)
        )
    )
    assert (ledgers.position[-1].sum(0) == 0).all(), "for every contract of YES there is one of NO"
    assert value[-1].astype(np.int64).sum() == brought - ledgers.fees_paid[-1].astype(np.int64).sum()
