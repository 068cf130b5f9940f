"""A pure JAX environment that replays recorded Kalshi order books. No I/O, no learning.

Shape letters used throughout: E episodes, T steps, M market slots, O orders per market, K book levels, S sides (YES bids,
NO bids), R rows of the tape, A actions, F features, C remembered taken levels.

Units: prices and money are int32 (or int16) of 0.01 cent, so a dollar is 10,000; sizes are whole contracts; times are
int32 ms since the session's start.
"""

from kalshi_jax.actions import Action
from kalshi_jax.check import EnvCheckError, check_env
from kalshi_jax.env import MarketAgnosticKalshiEnv
from kalshi_jax.features import Observation
from kalshi_jax.state import EnvParams, EnvState, Fees, Orders
from kalshi_jax.tape import Tape

__all__ = [
    "Action",
    "EnvCheckError",
    "EnvParams",
    "EnvState",
    "Fees",
    "MarketAgnosticKalshiEnv",
    "Observation",
    "Orders",
    "Tape",
    "check_env",
]
