"""A trained policy as a folder of two files, and what runs it. Needs jax and numpy and nothing else, not even this project.

`kalshi-jax export RUN` writes the folder. policy.bin is the network as portable StableHLO, its weights included, for any batch
size on any of its platforms; policy.json says what goes in, what comes out, and what the agent has learned from.

```python
policy = load_policy("runs/best/policy")
memory = policy.empty_memory()
while True:
    actions, memory = policy.act(observation, memory)  # i32[M, O], for `kalshi_jax.live.decode_orders`
```
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

FORMAT, VERSION = "kalshi-jax policy", 1
PROGRAM, DESCRIPTION = "policy.bin", "policy.json"

Program = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


class Seen(Protocol):
    """What a policy looks at: `kalshi_jax.Observation`, or anything else with its three arrays, of jax or numpy."""

    @property
    def market(self) -> Any:
        """f32[.., M, F], by `features`."""

    @property
    def portfolio(self) -> Any:
        """f32[.., P], by `portfolio`."""

    @property
    def action_mask(self) -> Any:
        """bool[.., M, O, A], True where legal, by `actions`."""


@dataclass(frozen=True)
class Schema:
    """What a policy sees, does and carries on, by name and in order."""

    market_slots: int  # M
    features: tuple[str, ...]  # F, of every market slot
    portfolio: tuple[str, ...]  # P
    orders_per_market: int  # O
    order_sizes: tuple[int, ...]  # contracts
    actions: tuple[str, ...]  # A, of every order slot
    memory: int  # units H of every market slot, 0 for a policy that remembers nothing

    @classmethod
    def of(cls, env: Any, memory: int) -> Schema:
        """Describe what an agent with that much memory sees and does in an environment, a `MarketAgnosticKalshiEnv`."""
        return cls(
            market_slots=env.max_markets,
            features=tuple(env.feature_names),
            portfolio=tuple(env.portfolio_names),
            orders_per_market=env.orders_per_market,
            order_sizes=tuple(env.order_sizes),
            actions=tuple(env.action_names),
            memory=memory,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of market, portfolio, action mask and memory without the batch."""
        return {
            "market": (self.market_slots, len(self.features)),
            "portfolio": (len(self.portfolio),),
            "action_mask": (self.market_slots, self.orders_per_market, len(self.actions)),
            "memory": (self.market_slots, self.memory),
        }

    def arguments(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Give the program's arguments, with a batch size that is a symbol."""
        (batch,) = export.symbolic_shape("b")
        return tuple(
            jax.ShapeDtypeStruct((batch, *shape), jnp.bool_ if name == "action_mask" else jnp.float32)
            for name, shape in self.shapes().items()
        )


@dataclass(frozen=True)
class Policy:
    """A loaded policy. Any batch shape [..] may lead what it looks at; a new batch size is compiled at its first use."""

    schema: Schema
    description: dict[str, Any]  # all of policy.json
    program: Program  # market, portfolio, action mask and memory, [b, ..] each, to logits, value and memory

    def empty_memory(self, *batch: int) -> np.ndarray:
        """Give the memory of episodes that begin, f32[.., M, H]."""
        return np.zeros((*batch, *self.schema.shapes()["memory"]), np.float32)

    def forget(self, memory: Any, begins: Any) -> np.ndarray:
        """Empty the memory, f32[.., M, H], of episodes that begin, bool[..]."""
        return np.where(np.asarray(begins)[..., None, None], np.float32(0), memory)

    def act(self, observation: Seen, memory: Any, key: jax.Array | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Choose an action for every slot.

        Args:
            observation: what is seen.
            memory: f32[.., M, H], from `empty_memory` at first and from the last call since.
            key: draws from the policy's distribution, and is consumed; without one the likeliest actions are taken.

        Returns:
            actions i32[.., M, O] and the memory after them.

        Raises:
            ValueError: as `forward`.
        """
        logits, _, memory = self.forward(observation, memory)
        actions = np.argmax(logits, axis=-1) if key is None else _draw(key, logits)
        return np.asarray(actions, np.int32), memory

    def forward(self, observation: Seen, memory: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Apply the network; what comes out is on the host.

        Returns:
            logits f32[.., M, O, A], illegal actions at the lowest finite number; value f32[..], the reward to come as the run
            discounts it; the memory after it.

        Raises:
            ValueError: an array of another shape, or a number that is not finite.
        """
        given = {
            "market": np.asarray(observation.market, np.float32),
            "portfolio": np.asarray(observation.portfolio, np.float32),
            "action_mask": np.asarray(observation.action_mask, bool),
            "memory": np.asarray(memory, np.float32),
        }
        batch, shapes = given["market"].shape[:-2], self.schema.shapes()
        for name, shape in shapes.items():
            if given[name].shape != (*batch, *shape):
                raise ValueError(self._explain_shape(name, given[name].shape, batch))
            if not np.isfinite(given[name]).all():
                raise ValueError(self._explain_number(name, given[name]))
        size = int(np.prod(batch))  # not -1: a memory of no units has no elements to tell it from
        flat = (given[name].reshape(size, *shape) for name, shape in shapes.items())
        logits, value, after = jax.device_get(self.program(*flat))
        return logits.reshape(given["action_mask"].shape), value.reshape(batch), after.reshape(given["memory"].shape)

    def check_environment(self, env: Any) -> None:
        """Check that an environment shows and offers what the policy was trained with.

        Raises:
            ValueError: something differs, in name, order or number; the message says what.
        """
        theirs = Schema.of(env, self.schema.memory)
        for name, expected in vars(self.schema).items():
            found = getattr(theirs, name)
            if found != expected:
                raise ValueError(f"the environment has {name} {_difference(found, expected)}: make it as the run's was")

    def _explain_shape(self, name: str, found: tuple[int, ...], batch: tuple[int, ...]) -> str:
        schema = self.schema
        axes = {
            "market": f"{schema.market_slots} market slots by {len(schema.features)} features",
            "portfolio": f"{len(schema.portfolio)} figures",
            "action_mask": f"{schema.market_slots} market slots by {schema.orders_per_market} orders by "
            f"{len(schema.actions)} actions",
            "memory": f"{schema.market_slots} market slots by {schema.memory} units",
        }
        expected = (*batch, *schema.shapes()[name])
        return (
            f"{name} of shape {found}: expected {expected}, {axes[name]}"
            + (f" behind the batch {batch} of market" if batch and name != "market" else "")
            + f"; {DESCRIPTION} names them, and `check_environment` tells what differs"
        )

    def _explain_number(self, name: str, found: np.ndarray) -> str:
        at = tuple(np.argwhere(~np.isfinite(found))[0].tolist())
        names = {"market": self.schema.features, "portfolio": self.schema.portfolio}
        label = f" ({names[name][at[-1]]})" if name in names else ""
        return f"{name}{list(at)}{label} is {found[at]}: expected finite numbers; do not trade on this observation"


def load_policy(folder: str | Path) -> Policy:
    """Read a policy that `kalshi-jax export` has written.

    Raises:
        FileNotFoundError: the folder is no policy.
        ValueError: it is damaged, or of a version that is not known here.
    """
    folder = Path(folder)
    for name in (DESCRIPTION, PROGRAM):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: name a folder that `kalshi-jax export` has written")
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        found, version, hashes = description["format"], description["version"], dict(description["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / DESCRIPTION}: unreadable ({error!r}): export the run again") from error
    if (found, version) != (FORMAT, VERSION):
        raise ValueError(
            f"{folder}: {found} version {version}: expected {FORMAT} version {VERSION}; export the run again"
        )
    blob = (folder / PROGRAM).read_bytes()
    digests = {
        DESCRIPTION: hash_description(description),
        "schema": hash_json(description.get("schema")),
        PROGRAM: hash_bytes(blob),
    }
    for name, digest in digests.items():
        if digest != hashes.get(name):
            raise ValueError(
                f"{folder}: sha256 of {name} is {digest}, expected {hashes.get(name)}: export the run again"
            )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description["schema"].items()}
    schema = Schema(**values)
    return Policy(schema, description, jax.jit(_read_program(blob, description["program"], schema, folder).call))


def describe_program(program: export.Exported) -> dict[str, Any]:
    """Say what `load_policy` must know of a program besides its bytes and its schema."""
    return {
        "platforms": list(program.platforms),
        "calling_convention": program.calling_convention_version,
        "arguments_kept": list(program.module_kept_var_idx),
    }


def _read_program(blob: bytes, about: dict[str, Any], schema: Schema, folder: Path) -> export.Exported:
    """Join the stored program to its signature.

    jax's own file format needs a further package, flatbuffers. The StableHLO is portable without it, and all else in an
    `Exported` is the signature, which a program that does nothing with the same arguments and results has too.
    """
    convention = about["calling_convention"]
    oldest = export.minimum_supported_calling_convention_version
    newest = export.maximum_supported_calling_convention_version
    if not oldest <= convention <= newest:
        raise ValueError(
            f"{folder}: calling convention {convention}: jax {jax.__version__} knows {oldest} to {newest}; "
            "export the run again with this jax"
        )

    def nothing(market: Any, portfolio: Any, action_mask: Any, memory: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jnp.zeros(action_mask.shape), jnp.zeros(action_mask.shape[0]), memory

    signature = export.export(jax.jit(nothing), platforms=about["platforms"])(*schema.arguments())
    return replace(
        signature,
        mlir_module_serialized=blob,
        calling_convention_version=convention,
        module_kept_var_idx=tuple(about["arguments_kept"]),
    )


def hash_bytes(content: bytes) -> str:
    """Give the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_description(description: dict[str, Any]) -> str:
    """Give the SHA-256 of a description without its own hashes, whatever its layout in the file."""
    return hash_json({name: value for name, value in description.items() if name != "sha256"})


def hash_json(value: Any) -> str:
    """Give the SHA-256 of a value as JSON with sorted keys."""
    return hash_bytes(json.dumps(value, sort_keys=True).encode())


@jax.jit
def _draw(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.categorical(key, logits)


def _difference(found: Any, expected: Any) -> str:
    """Say where two values of a schema part: whole, or the first place of two lists."""
    if not isinstance(found, Sequence) or len(found) != len(expected):
        counts = (f"{len(x)} entries" if isinstance(x, Sequence) else str(x) for x in (found, expected))
        return "of {}, the policy {}".format(*counts)
    place = next(i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
    return f"with {found[place]!r} at place {place}, the policy {expected[place]!r}"
