"""What to simulate: the keys of "synthetic:key=value,...", their bounds, and presets fitted to real recordings."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

SYNTHETIC = "synthetic:"  # how the simulated exchange is named as a source
LIKE = "like"  # the key that names a preset
# Tight, busy markets where nobody gives money away, for planted patterns.
_PLANTED = "seconds=900,rate=10,spread=1,noise=0,orders=240,regimes=0.2"
PRESETS = {
    # fitted to recordings: see `benchmarks/fit_simulation.py`
    "crypto": "seconds=900,rate=72,spread=0.2,noise=0.015,informed=0.1,orders=110,size=4,reach=3,regimes=0.3,echo=0.3",
    "index": "seconds=23400,rate=1.4,spread=1.5,noise=0.003,informed=0.05,orders=125,size=3.2,reach=6,regimes=0.5,echo=0.6",
    # one pattern each, so strong that it pays for spread and fees, and the same markets without one
    "reversion": f"{_PLANTED},reversion=18",
    "imbalance": f"{_PLANTED},imbalance=3",
    "bursts": f"{_PLANTED},regimes=0,bursts=0.7",
    "control": _PLANTED,
}


@dataclass(frozen=True)
class SimConfig:
    """What to simulate; the same configuration always gives the same sessions, each of them independent of the rest."""

    sessions: int = 8
    markets: int = 3  # per session
    seconds: int = 600  # length of a session; its markets settle at its end
    seed: int = 0
    rate: float = 6.0  # order messages per second and market, on average
    spread: float = 2.0  # cents between the makers' best bids and offers, in quiet times
    tick: float = 1.0  # cents: 1 or 0.1
    noise: float = 0.05  # share of messages that take whatever is there: what makers live on
    informed: float = 0.35  # chance that a stale bid is hit before its maker withdraws it
    orders: int = 120  # resting orders of a market that cancellations steer towards
    size: float = 1.0  # multiplies the contracts of every order
    reach: float = 0.0  # cents, mean distance of quotes behind the makers' best; 0: twice the spread
    regimes: float = 1.0  # power of the intensities of quiet (0.02), normal (1) and burst (4) regimes; 0: none
    echo: float = 0.0  # share of messages that follow another within a few ms
    # Planted patterns, none by default: see `loaders.patterns`.
    stale: float = 0.0  # seconds by which makers lag the fair value
    imbalance: float = 0.0  # sizes beyond the best five levels show the fair value's next move
    reversion: float = 0.0  # cents by which shocks displace what makers quote, with a wider spread, until it comes back
    bursts: float = 0.0  # markets rise in bursts and fall in quiet times

    def __post_init__(self) -> None:
        for name, low, high in (
            ("sessions", 1, 100_000),
            ("markets", 1, 10_000),
            ("seconds", 1, 7 * 86_400),
            ("seed", 0, 2**32 - 1),
            ("rate", 0.01, 1_000),
            ("spread", 0.1, 50),
            ("noise", 0, 0.5),
            ("informed", 0, 1),
            ("orders", 2, 10_000),
            ("size", 0.1, 1_000),
            ("reach", 0, 50),
            ("regimes", 0, 2),
            ("echo", 0, 0.95),
            ("stale", 0, 3_600),
            ("reversion", 0, 50),
            ("imbalance", 0, 5),
            ("bursts", 0, 5),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"simulated exchange: {name} is {getattr(self, name)}, expected {low} to {high}")
        if self.tick not in (1.0, 0.1):
            raise ValueError(f"simulated exchange: tick is {self.tick} cents, expected 1 or 0.1")

    @staticmethod
    def preset(name: str, **values: Any) -> SimConfig:
        """Give the configuration that is like a kind of real market, with other values where wanted.

        Raises:
            ValueError: no such preset, or a value that is out of bounds.
        """
        return replace(SimConfig.parse(f"{SYNTHETIC}{LIKE}={name}"), **values)

    @staticmethod
    def parse(spec: str) -> SimConfig:
        """Read "synthetic:sessions=8,markets=3,seconds=600,seed=0" or "synthetic:like=crypto,sessions=8".

        What is left out has its default, or the preset's value.

        Raises:
            ValueError: another beginning, an unknown key or preset, or a value that is no number or out of bounds.
        """
        if not spec.startswith(SYNTHETIC):
            raise ValueError(f"{spec!r} is no simulated exchange: expected {SYNTHETIC}key=value,...")
        kinds = {field.name: int if field.type == "int" else float for field in fields(SimConfig)}
        values: dict[str, Any] = {}
        items = spec.removeprefix(SYNTHETIC)
        if items.startswith(f"{LIKE}="):
            name, _, items = items.removeprefix(f"{LIKE}=").partition(",")
            if name not in PRESETS:
                raise ValueError(f"{spec!r} is like {name!r}: expected {' or '.join(PRESETS)}")
            items = f"{PRESETS[name]},{items}"
        for item in filter(None, items.split(",")):
            key, _, value = item.partition("=")
            if key not in kinds:
                raise ValueError(
                    f"{spec!r} has an unknown key {key!r}: expected {', '.join(kinds)}, or {LIKE}=... before all others"
                )
            try:
                values[key] = kinds[key](value)
            except ValueError:
                raise ValueError(f"{spec!r}: {key} is {value!r}, expected a number ({kinds[key].__name__})") from None
        return SimConfig(**values)

    @property
    def spec(self) -> str:
        """The text that `parse` reads."""
        return SYNTHETIC + ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
