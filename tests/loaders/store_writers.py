"""Processes that write a store and are killed; run by test_store.py, in a process that has not started JAX, so that it may fork.

python store_writers.py killed-at-every-step STORE none|old
python store_writers.py killed-at-random STORE
python store_writers.py write STORE old|new TIMES
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import loaders.store as store
from kalshi_jax.tape import Tape
from loaders import DataError, Report, SessionInfo, TapeIndex, read_store, write_store
from loaders.statistics import SessionStatistics

STEPS = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.scandir",
    "os.listdir",
    "shutil.rmtree",
    "mmap.__new__",
)
VALUES = {"old": 1, "new": 2}  # of every array: a mixture of two stores shows


def make(name: str) -> tuple[Tape, TapeIndex]:
    """Make a tape that is all one number; nothing here needs JAX."""
    arrays = {array: np.full(2_000, VALUES[name], np.int32) for array in Tape.array_names()}
    info = SessionInfo(name, 0, 0, [name.upper()], [], [], 0, "", "", True, Report(), SessionStatistics())
    return Tape(**arrays, bisections=VALUES[name]), TapeIndex([info], [name.upper()], arrays["market_session"])


def kill_at(step: int) -> None:
    """Kill this process right before its step-th step that concerns a file."""
    left = [step]

    def count(event: str, _: tuple) -> None:
        if event in STEPS:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def fork_writer(folder: Path, step: int | None) -> int:
    """Write the new store in a child; return its number."""
    child = os.fork()
    if child == 0:
        if step is not None:
            kill_at(step)
        write_store(folder, *make("new"))
        os._exit(0)
    return child


def found(folder: Path) -> str:
    """Read the store and say which one it is: "none" if there is none, an error if it is not whole."""
    if not store.is_store(folder):
        return "none"
    tape, index = read_store(folder)
    (name,) = (name for name, value in VALUES.items() if value == tape.bisections)
    for array in vars(tape).values():
        assert (np.asarray(array) == VALUES[name]).all()
    assert index.tickers == [name.upper()]
    return name


def reset(folder: Path, present: str) -> None:
    """Bring the place into the state before the write; leftovers of dead writers stay."""
    if present == "old":
        write_store(folder, *make("old"))
    elif store.is_store(folder):
        (folder / store.MANIFEST).unlink()


def main(command: str, place: str, *options: str) -> None:
    folder = Path(place)
    if command == "write":
        for _ in range(int(options[1])):
            write_store(folder, *make(options[0]))
        return
    os.fsync = lambda _: None  # a kill is no power failure, and the disk may be slow
    store._array_names = lambda: ["time_ms", "price", "market_session"]  # more files are more of the same
    store.to_device = lambda arrays, bisections: SimpleNamespace(**arrays, bisections=bisections)
    if command == "killed-at-every-step":
        for step in range(10_000):
            if found(folder) != options[0]:
                reset(folder, options[0])
            _, status = os.waitpid(fork_writer(folder, step), 0)
            print(found(folder))
            if not os.WIFSIGNALED(status):
                assert status == 0
                return
    else:
        write_store(folder, *make("old"))
        begin = time.perf_counter()
        os.waitpid(fork_writer(folder, None), 0)
        usual = time.perf_counter() - begin
        for seed in range(10):
            reset(folder, "old")
            child = fork_writer(folder, None)
            time.sleep(random.Random(seed).random() * usual)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print(found(folder))
        write_store(folder, *make("new"))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except DataError as error:
        sys.exit(f"broken: {error}")
