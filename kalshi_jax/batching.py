"""Work for a few of many: what `jax.vmap` would compute for all episodes and throw away for most."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Draw = Callable[[jax.Array, Any], Any]
Choose = Callable[[jax.Array, jax.Array, Any, Any], Any]
WORTH_IT = 256  # members of a batch


def is_traced(tree: Any) -> bool:
    """Tell whether any leaf is traced. What is not is computed operation by operation, and there is no program to arrange."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def first_true(mask: jax.Array, room: int) -> jax.Array:
    """Find the first `room` places where a mask (bool[N]) is true, i32[room]; N where there are no more.

    The same as `jnp.nonzero` with a size, which sums the mask twice. XLA's CPU compiler makes one kernel of a loop whose body
    touches less than a kilobyte: one member after another it takes a third of the time.
    """
    size = len(mask)

    @jax.custom_batching.sequential_vmap
    def find(mask: jax.Array) -> jax.Array:
        def put(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            at, count = carry  # the place after the last takes what there is no room for
            return jax.lax.dynamic_update_index_in_dim(at, i, count, 0), count + mask[i]

        at, count = jax.lax.fori_loop(0, size, put, (jnp.full(room + 1, size), jnp.int32(0)))
        return jnp.where(jnp.arange(room) < count, at[:room], size)

    return find(mask.astype(jnp.int32))


def draw_where(draw: Draw, share: int, worth_it: int = WORTH_IT) -> Choose:
    """Make a function of (chosen bool[], key, old, shared) that gives `draw(key, shared)` where chosen, else `old`.

    Under `jax.vmap` on a CPU it draws for the chosen members of the batch alone, as long as they are at most one in `share`. The
    values are the same.

    Args:
        draw: a tree like `old` from a key and whatever all members share.
        share: so many members make room for one that is drawn.
        worth_it: in smaller batches all draw.
    """

    def choose(chosen: jax.Array, key: jax.Array, old: Any, shared: Any) -> Any:
        return jax.tree.map(lambda new, kept: jnp.where(chosen, new, kept), draw(key, shared), old)

    chooser = jax.custom_batching.custom_vmap(choose)

    @chooser.def_vmap
    def batch(
        size: int, batched: list[Any], chosen: jax.Array, key: jax.Array, old: Any, shared: Any
    ) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
        whole = jax.vmap(choose, axes, axis_size=size)
        room = size // share if size >= worth_it else 0

        def few(chosen: jax.Array, key: jax.Array, old: Any, shared: Any) -> Any:
            at = first_true(chosen, room)
            new = jax.vmap(draw, (0, None))(key.at[at].get(mode="clip"), shared)
            return jax.tree.map(lambda kept, drawn: kept.at[at].set(drawn, mode="drop"), old, new)

        def compact(*operands: Any) -> Any:
            return jax.lax.cond(operands[0].sum() <= room, few, whole, *operands)

        of_members, of_all = jax.tree.leaves(batched[:3]), jax.tree.leaves(batched[3])
        if room and all(of_members) and not any(of_all):
            result = jax.lax.platform_dependent(chosen, key, old, shared, cpu=compact, default=whole)
        else:
            result = whole(chosen, key, old, shared)
        return result, jax.tree.map(lambda _: True, result)

    return lambda *operands: (chooser if is_traced(operands) else choose)(*operands)


def while_any(
    goes_on: Callable[[Any, Any, Any], jax.Array],
    step: Callable[[Any, Any, Any], Any],
    share: int = 4,
    worth_it: int = WORTH_IT,
) -> Callable[[Any, Any, Any], Any]:
    """Make a `jax.lax.while_loop` over (carry, own, shared) whose batch shrinks.

    Of many episodes most have soon done, and the slowest decides how long a batched loop takes. Under `jax.vmap` on a CPU
    only one in `share` members stays in the loop once no more go on, then one in `share` of those. The values are the same.

    Args:
        goes_on: (carry, own, shared) -> bool[].
        step: (carry, own, shared) -> carry, unchanged where it does not go on.
        share: 2 or more.
        worth_it: smaller batches do not shrink.
    """

    def loop(carry: Any, own: Any, shared: Any) -> Any:
        return jax.lax.while_loop(lambda c: goes_on(c, own, shared), lambda c: step(c, own, shared), carry)

    looper = jax.custom_batching.custom_vmap(loop)

    @looper.def_vmap
    def batch(size: int, batched: list[Any], carry: Any, own: Any, shared: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
        whole = jax.vmap(loop, axes, axis_size=size)

        def shrink(size: int, carry: Any, own: Any, shared: Any) -> Any:
            room = size // share if size >= worth_it else 0
            going = lambda c: jax.vmap(goes_on, (0, 0, None))(c, own, shared)  # noqa: E731
            advance = lambda c: jax.vmap(step, (0, 0, None))(c, own, shared)  # noqa: E731
            carry = jax.lax.while_loop(lambda c: going(c).sum() > room, advance, carry)
            if not room:
                return carry
            at = first_true(going(carry), room)
            rest, theirs = jax.tree.map(lambda x: x.at[at].get(mode="clip"), (carry, own))
            rest = shrink(room, rest, theirs, shared)
            return jax.tree.map(lambda all, some: all.at[at].set(some, mode="drop"), carry, rest)

        apart = all(jax.tree.leaves(batched[:2])) and not any(jax.tree.leaves(batched[2]))
        if apart and size >= max(worth_it, share):
            shrinking = partial(shrink, size)
            result = jax.lax.platform_dependent(carry, own, shared, cpu=shrinking, default=whole)
        else:
            result = whole(carry, own, shared)
        return result, jax.tree.map(lambda _: True, result)

    return lambda *operands: (looper if is_traced(operands) else loop)(*operands)


def over_markets(work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Have a batch of episodes call `work` with the markets of all of them along one axis.

    Compilers turn [episodes x markets] into long loops, and [episodes, markets] into as many short ones. The values are the same.

    Args:
        work: (own, shared) -> tree. The leaves of `own` and of the result have the markets as first axis, and no market looks at
            another.
    """
    worker = jax.custom_batching.custom_vmap(work)

    @worker.def_vmap
    def batch(size: int, batched: list[Any], own: Any, shared: Any) -> tuple[Any, Any]:
        if any(jax.tree.leaves(batched[1])):
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
            result = jax.vmap(work, axes, axis_size=size)(own, shared)
            return result, jax.tree.map(lambda _: True, result)

        def merge(x: jax.Array, is_batched: bool) -> jax.Array:
            x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(size * x.shape[1], *x.shape[2:])

        result = worker(jax.tree.map(merge, own, batched[0]), shared)
        result = jax.tree.map(lambda x: x.reshape(size, x.shape[0] // size, *x.shape[1:]), result)
        return result, jax.tree.map(lambda _: True, result)

    return lambda own, shared: (worker if is_traced((own, shared)) else work)(own, shared)
