"""The entry of the command line, `kalshi-jax`: prepares JAX before anything imports it, runs a command, explains errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

MOST_CPU_DEVICES = 8  # each holds a copy of the tape


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 and one line on standard error where the user can mend the cause."""
    prepare_jax()
    import tyro

    from agents.commands import COMMANDS
    from loaders.postgres import PostgresError

    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="kalshi-jax",
            description="Recorded Kalshi order books in, a trained and evaluated trading agent out.",
            args=list(sys.argv[1:] if arguments is None else arguments),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        if getattr(command, "source", None) == ():
            raise ValueError("no SOURCE: name recordings (a path, several, or a glob in quotes), a URL or a store")
        command.run()
    except (ValueError, OSError, FloatingPointError, PostgresError) as error:
        print(f"kalshi-jax: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("kalshi-jax: interrupted", file=sys.stderr)
        sys.exit(130)


def prepare_jax() -> None:
    """Make every core a device, and keep compiled programs in the user's cache folder between calls.

    XLA runs these programs on one core for the most part, so training divides its episodes among cores. JAX reads these
    variables when it is imported, which this module therefore leaves to the commands; what is set already stays.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "kalshi-jax" / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(os.cpu_count() or 1, MOST_CPU_DEVICES)))
