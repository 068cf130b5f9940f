"""The entry of the command line, `kalshi-jax`: prepares JAX before anything imports it, runs a command, explains errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

    Where JAX_COORDINATOR_ADDRESS is set, this is one process of several, which train together; of each, all local devices take
    part. JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0) say which, unless JAX finds that out from a cluster's manager.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "kalshi-jax" / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(os.cpu_count() or 1, MOST_CPU_DEVICES)))
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        import jax

        known = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        which: dict[str, Any] = {
            name: int(os.environ[variable]) for name, variable in known.items() if variable in os.environ
        }
        jax.distributed.initialize(**which)  # before anything asks for a device
