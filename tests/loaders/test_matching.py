"""The matching engine against a plain list of orders, and the laws of price-time priority."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshi_jax.tape import NO, YES
from loaders.matching import OrderBook


class PlainBook:
    """Price-time priority in the slowest way: all orders in a list, sorted whenever somebody takes."""

    def __init__(self, ticks):
        self.ticks, self.orders, self.fills = ticks, [], []  # orders: [side, price, arrival, remaining]

    def take(self, side, price, size):
        best_first = sorted((o for o in self.orders if o[0] == 1 - side), key=lambda o: (-o[1], o[2]))
        for order in best_first:
            if size and order[1] + price >= self.ticks:
                traded = min(size, order[3])
                self.fills.append((order[2], traded))
                order[3] -= traded
                size -= traded
        self.orders = [o for o in self.orders if o[3]]
        return size

    def limit(self, arrival, side, price, size):
        left = self.take(side, price, size)
        if left:
            self.orders.append([side, price, arrival, left])

    def ahead(self, order):
        return sum(o[3] for o in self.orders if o[:2] == order[:2] and o[2] < order[2])

    def resting(self, arrival):
        return next((o for o in self.orders if o[2] == arrival), None)


OPERATIONS = st.one_of(
    st.tuples(st.just("limit"), st.integers(0, 1), st.integers(1, 9), st.integers(1, 6)),
    st.tuples(st.just("market"), st.integers(0, 1), st.integers(1, 12)),
    st.tuples(st.just("cancel"), st.integers(0, 60)),
    st.tuples(st.just("reduce"), st.integers(0, 60), st.integers(1, 6)),
)


@given(st.lists(OPERATIONS, max_size=60))
@settings(max_examples=300, deadline=None)
def test_the_engine_agrees_with_a_plain_list_and_conserves_contracts(operations):
    ticks = 10
    book, plain = OrderBook(ticks), PlainBook(ticks)
    orders, submitted, withdrawn, unfilled = [], 0, 0, 0
    replayed = {}
    for name, *arguments in operations:
        if name == "limit":
            side, price, size = arguments
            plain.limit(len(orders), side, price, size)
            orders.append(book.limit(side, price, size))
            submitted += size
        elif name == "market":
            side, size = arguments
            left = book.market(side, size)
            assert left == plain.take(side, ticks - 1, size)
            submitted += size
            unfilled += left
        elif arguments[0] < len(orders):
            arrival, order = arguments[0], orders[arguments[0]]
            theirs = plain.resting(arrival)
            if name == "cancel":
                size = book.cancel(order)
                assert size == (theirs[3] if theirs else 0)
                plain.orders = [o for o in plain.orders if o is not theirs]
                withdrawn += size
            elif arguments[1] <= order.remaining:
                withdrawn += order.remaining - arguments[1]
                book.reduce(order, arguments[1])
                theirs[3] = arguments[1]
        for _, side, price, change in book.changes:
            replayed[side, price] = replayed.get((side, price), 0) + change
            assert replayed[side, price] >= 0
        book.changes.clear()

        sizes = {(side, price): size for side in (YES, NO) for price, size in enumerate(book.sizes[side]) if size}
        assert {level: size for level, size in replayed.items() if size} == sizes
        levels = {}
        for side, price, _, remaining in plain.orders:
            levels[side, price] = levels.get((side, price), 0) + remaining
        assert levels == sizes
        for arrival, order in enumerate(orders):
            if theirs := plain.resting(arrival):
                assert book.ahead(order) == plain.ahead(theirs)
        assert book.best == [max((p for s, p in sizes if s == side), default=0) for side in (YES, NO)]
        assert sum(book.best) < ticks or 0 in book.best
    arrivals = {id(order): number for number, order in enumerate(orders)}
    assert [(arrivals[id(maker)], size) for maker, _, size in book.fills] == plain.fills
    traded = sum(fill.size for fill in book.fills)
    assert submitted == 2 * traded + withdrawn + unfilled + sum(replayed.values())


def test_the_earlier_order_trades_first_and_a_better_price_before_both():
    book = OrderBook(100)
    early, late, better = book.limit(YES, 40, 10), book.limit(YES, 40, 10), book.limit(YES, 41, 5)
    assert book.first(YES) is better
    taker = book.limit(NO, 60, 17)
    assert [(fill.maker, fill.size, fill.taker_side) for fill in book.fills] == [
        (better, 5, NO),
        (early, 10, NO),
        (late, 2, NO),
    ]
    assert (taker.remaining, late.remaining) == (0, 8)
    assert book.best == [40, 0]


def test_a_limit_order_rests_with_what_it_could_not_take():
    book = OrderBook(100)
    book.limit(NO, 55, 4)
    rest = book.limit(YES, 45, 10)
    assert rest.remaining == 6
    assert book.best == [45, 0]
    assert book.changes == [(0, NO, 55, 4), (0, NO, 55, -4), (1, YES, 45, 6)]


def test_a_smaller_order_keeps_its_place_and_a_larger_one_is_refused():
    book = OrderBook(100)
    first, second = book.limit(YES, 40, 10), book.limit(YES, 40, 10)
    book.reduce(first, 3)
    book.market(NO, 5)
    assert (first.remaining, second.remaining) == (0, 8)
    with pytest.raises(ValueError, match="cannot be reduced to 9"):
        book.reduce(second, 9)


def test_a_cancelled_order_neither_trades_nor_cancels_again():
    book = OrderBook(100)
    order, other = book.limit(YES, 40, 10), book.limit(YES, 39, 10)
    assert book.cancel(order) == 10
    assert book.cancel(order) == 0
    assert book.market(NO, 12) == 2
    assert [fill.maker for fill in book.fills] == [other]


@pytest.mark.parametrize(("price", "size"), [(0, 1), (100, 1), (50, 0), (-3, 1)])
def test_an_impossible_order_is_refused(price, size):
    with pytest.raises(ValueError, match="no bid for"):
        OrderBook(100).limit(YES, price, size)


# -- shadows: 5 contracts at 40 behind `ahead`, in front of `behind`; 10 contracts each


@pytest.mark.parametrize(
    ("what_happens", "fills"),
    [
        ([("take", 10)], []),  # all of it goes to the order ahead
        ([("take", 12)], [(2, 0)]),
        ([("take", 30)], [(5, 0)]),  # never more than its remainder
        ([("take", 12), ("take", 1), ("take", 9)], [(2, 0), (1, 0), (2, 0)]),
        ([("cancel", "ahead"), ("take", 3)], [(3, 0)]),
        ([("cancel", "behind"), ("take", 8), ("take", 4)], [(2, 2)]),  # 2 go ahead, 2 find nothing at the level
        ([("reduce", "ahead", 4), ("take", 7)], [(3, 0)]),
        ([("reduce", "behind", 1), ("take", 10)], []),
        ([("join", YES, 41, 6), ("take", 17)], [(1, 0)]),  # a better price is ahead, whenever it came
        ([("join", YES, 40, 6), ("take", 12)], [(2, 0)]),  # at the same price it is behind
        ([("cancel", "behind"), ("join", YES, 39, 10), ("join", NO, 61, 13)], [(3, 3)]),  # went further down
        ([("cancel", "ahead"), ("cancel", "behind"), ("join", NO, 60, 2)], [(2, 2)]),  # comes to rest at its price
        ([("cancel", "ahead"), ("cancel", "behind"), ("join", NO, 59, 2)], []),  # a tick short of it
        ([("join", NO, 60, 22)], [(5, 0)]),
    ],
)
def test_a_shadow_gets_what_orders_ahead_of_it_leave_of_an_incoming_order(what_happens, fills):
    book = OrderBook(100)
    named = {"ahead": book.limit(YES, 40, 10)}
    shadow = book.follow(YES, 40, 5)
    named["behind"] = book.limit(YES, 40, 10)
    for name, *arguments in what_happens:
        if name == "take":
            book.market(NO, *arguments)
        elif name == "join":
            book.limit(*arguments)
        else:
            getattr(book, name)(named[arguments[0]], *arguments[1:])
    assert [(fill.size, fill.beyond) for fill in book.shadow_fills] == fills
    assert all(fill.shadow is shadow for fill in book.shadow_fills)
    assert shadow.remaining == 5 - sum(size for size, _ in fills)
    assert (shadow in book.shadows) == (shadow.remaining > 0)


@given(st.lists(OPERATIONS, max_size=60), st.integers(0, 60), st.integers(0, 1), st.integers(1, 9), st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_a_shadow_changes_nothing_and_first_fills_as_a_real_order_in_its_place(operations, when, side, price, size):
    ticks = 10
    alone, followed, real = OrderBook(ticks), OrderBook(ticks), OrderBook(ticks)
    books = (alone, followed, real)
    orders = []
    shadow = ours = None
    for number, (name, *arguments) in enumerate(operations):
        if number == when and price + alone.best[1 - side] < ticks:
            shadow, ours = followed.follow(side, price, size), real.limit(side, price, size)
        if name == "limit":
            orders.append([book.limit(*arguments) for book in books])
        elif name == "market":
            for book in books:
                book.market(*arguments)
        elif arguments[0] < len(orders):
            for book, order in zip(books, orders[arguments[0]], strict=True):
                if name == "cancel":
                    book.cancel(order)
                elif arguments[1] <= order.remaining:
                    book.reduce(order, arguments[1])
        assert followed.changes == alone.changes
        assert followed.best == alone.best
        if shadow:
            assert shadow.remaining == ours.remaining
            if shadow.remaining < size:  # from here on the real one has changed the book
                return
