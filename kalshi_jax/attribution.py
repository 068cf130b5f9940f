"""Attribution: where a step's change of portfolio value came from, exactly and per market."""

from __future__ import annotations

import jax
from flax import struct

from kalshi_jax.ledger import Ledger, unrealized_pnl
from kalshi_jax.reward import marks
from kalshi_jax.tape import Quote

PARTS = ("spread_captured", "adverse_selection", "spread_paid", "holding", "settlement", "fees")


@struct.dataclass
class Attribution:
    """What made a step's change of value, per market slot. Over all parts and slots it adds up to that change exactly."""

    parts: dict[str, jax.Array]  # by the names of PARTS, i32[M] each, 0.01 cent
    taker: jax.Array  # i32[M], contracts that NOW orders brought, +YES, -NO
    maker: jax.Array  # i32[M], contracts that resting orders brought, +YES, -NO


@struct.dataclass
class Account:
    """The ledger at the moments of one step, in their order."""

    begun: Ledger  # when the agent decided
    early: Ledger  # when its orders arrived, after what resting orders had got until then
    placed: Ledger  # when they were in the book or filled
    met: Ledger  # at the next decision, after what resting orders had got until then
    settled: Ledger  # after markets that closed have paid out


def attribute(account: Account, before: Quote, after: Quote, kind: str) -> Attribution:
    """Divide a step's change of value.

    With m the mid when the agent decided, m' the mid at the next decision, d signed contracts (+YES, -NO) and p the YES price
    of a fill:

    - spread_captured: sum of d (m - p) over the fills of resting orders.
    - adverse_selection: d (m' - m) of the same fills: how far the mid had moved by the end of the step that filled them,
      most of it against them.
    - spread_paid: sum of d (m - p) over the fills of NOW orders; under a latency with the way the book went meanwhile.
    - holding: (m' - m) times what was held and what NOW orders brought; where holdings are valued at the exit price, also the
      change of what that is below the mid.
    - settlement: what markets paid out at their close, less their last mid.
    - fees: what they cost, 0 or less.

    Args:
        account: the ledger through the step.
        before: of the rows i32[M] when the agent decided.
        after: of those at the next decision.
        kind: of the marks.
    """
    mid, next_mid = (marks(quote, account.begun.position, "mid") for quote in (before, after))

    def worth(ledger: Ledger, mid: jax.Array) -> jax.Array:  # of a market, before fees
        return ledger.realized_pnl + unrealized_pnl(ledger, mid)

    def above_mid(ledger: Ledger, quote: Quote, mid: jax.Array) -> jax.Array:
        return ledger.position * (marks(quote, ledger.position, kind) - mid)

    at_mid = {name: worth(getattr(account, name), mid) for name in ("begun", "early", "placed", "met")}
    taker = account.placed.position - account.early.position
    maker = account.met.position - account.begun.position - taker
    spread_paid = at_mid["placed"] - at_mid["early"]
    move = next_mid - mid
    parts = {
        "spread_captured": at_mid["met"] - at_mid["begun"] - spread_paid,
        "adverse_selection": maker * move,
        "spread_paid": spread_paid,
        "holding": (account.begun.position + taker) * move
        + above_mid(account.settled, after, next_mid)
        - above_mid(account.begun, before, mid),
        "settlement": worth(account.settled, next_mid) - worth(account.met, next_mid),
        "fees": account.begun.fees_paid - account.settled.fees_paid,
    }
    return Attribution(parts, taker, maker)
