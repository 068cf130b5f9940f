"""The commands of `kalshi-jax`: each is a dataclass whose docstrings are its help."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from agents.catalogue import print_sessions, session_json, show_time, write_catalogue
from agents.demo import DemoConfig, run_demo
from agents.evaluation import SEEDS, dollars
from agents.export import CALLS, PLATFORMS, export_run
from agents.judge import BOTH, QueueModel, evaluate_run
from agents.judgement import print_judgement
from agents.runs import Reading, TrainConfig, describe_data
from agents.training import train
from loaders import SessionDataLoader, SessionFilter, book_at, cached_tape, load_tape
from loaders.catalogue import Sort, parse_time, sort_sessions
from loaders.postgres import redact

Source = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
Filter = Annotated[SessionFilter, tyro.conf.arg(name="")]
WIDE = 180  # columns of a table that goes into a file or a pipe


@dataclass(frozen=True)
class Demo(DemoConfig):
    """See the whole chain in a few minutes, with nothing prepared: no data, no server, no GPU.

    A simulated exchange writes trading sessions into a PostgreSQL server that lives in a temporary folder; they are
    loaded from it, an agent trains on some of them and is judged on the others, and a report is written.
    """

    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        result = run_demo(self, Console(stderr=True))
        if self.json:
            _print_json(result)


@dataclass(frozen=True)
class Sessions(Reading):
    """List the sessions of a source: when, how long, how many markets and changes, and how sound the recording is.

    A gap is a place where messages are missing; a crossed book is one whose bids for YES and NO together pay a dollar
    or more, which no exchange shows: "inside" counts those between messages of one millisecond, "after" the others.
    "a second" is changes a second and market; spread is the mean over time, in cents; volatility is in cents per root
    second. Quality is 0 to 1: --json and --page show its parts. Stage is that of the curriculum. Marks say why a session
    is of no use for training.

    The sessions worth training on, best first:
    kalshi-jax sessions "recordings/*.jsonl.gz" --skip-marked --least-changes 1000 --most-spread 5 --sort quality
    """

    source: Source
    """Recordings (a path, several, or a glob in quotes), a postgresql:// URL, a store, or "synthetic:..."."""
    filter: Filter = field(default_factory=SessionFilter)
    sort: Sort = "start"
    """Order: the earliest, the first name, the tightest spread, or else the largest comes first."""
    reverse: bool = False
    """Turn the order round."""
    page: Path | None = None
    """Also write a page with plots, for a browser: one file, such as sessions.html."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        config = self.session_config(filter=self.filter)
        with show_progress(self.json) as progress:
            catalogue = SessionDataLoader(list(self.source), config, progress).catalogue()
        sessions = sort_sessions(catalogue, self.sort, self.reverse)
        if self.page:
            write_catalogue(self.page, sessions, ", ".join(map(redact, self.source)))
        if self.json:
            _print_json([session_json(session) for session in sessions])
            return
        console = Console()
        console = console if console.is_terminal else Console(width=WIDE)
        print_sessions(console, sessions)
        if self.page:
            print(f"Page: {self.page}")


@dataclass(frozen=True)
class Build(Reading):
    """Load a source once and keep the result on disk; every command takes the store as its SOURCE and starts at once.

    A store that was made from just this source, as it is now, is left as it is.
    """

    source: Source
    """Recordings (a path, several, or a glob in quotes), or a postgresql:// URL."""
    out: Annotated[Path, tyro.conf.arg(metavar="STORE")]
    """Folder to write."""
    filter: Filter = field(default_factory=lambda: SessionFilter(skip_marked=True))
    force: bool = False
    """Build the store even if it is up to date."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        config = self.session_config(filter=self.filter)
        with show_progress(self.json) as progress:
            tape, index, why = cached_tape(list(self.source), self.out, config, progress, rebuild=self.force)
        data = describe_data(tape, index) | {"store": str(self.out), "built": why or None}
        if self.json:
            _print_json(data)
        else:
            done = f"built, for {why}" if why else "up to date, left as it is"
            print(
                f"{self.out}: {data['sessions']} sessions, {data['markets']} markets, {data['changes']:,} changes; {done}"
            )


@dataclass(frozen=True)
class Book(Reading):
    """Show the order book of a market at a moment: both sides' bids, best first, as after the last change by then."""

    source: Source
    """Recordings (a path, several, or a glob in quotes), a postgresql:// URL, or a store."""
    market: str
    """Ticker, as `kalshi-jax sessions SOURCE --json` lists them."""
    at: str
    """The moment: 2026-05-13T14:30:00 (UTC unless it says otherwise), or milliseconds since 1970."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        time_ms = parse_time(self.at)
        tape, index = load_tape(list(self.source), self.session_config())
        book = book_at(tape, index, self.market, time_ms)
        if self.json:
            _print_json({"market": self.market, "time_ms": time_ms, "yes_bids": book.yes_bids, "no_bids": book.no_bids})
            return
        table = Table(
            "YES bid, cents", "contracts", "NO bid, cents", "contracts ", title=f"{self.market} {show_time(time_ms)}"
        )
        for column in table.columns:
            column.justify = "right"
        for i in range(max(len(book.yes_bids), len(book.no_bids))):
            sides = [side[i] if i < len(side) else None for side in (book.yes_bids, book.no_bids)]
            table.add_row(
                *(text for level in sides for text in ((f"{level[0]:g}", f"{level[1]:,}") if level else ("", "")))
            )
        Console().print(table)


@dataclass(frozen=True)
class Train(TrainConfig):
    """Train an agent on recorded order books.

    The run folder gets the configuration, metrics.jsonl, TensorBoard logs and checkpoints. Ctrl-C stops after the
    present update and leaves a checkpoint; --resume goes on from the last one, also after a crash, and ends with the
    same agent, bit by bit, as a run that was never stopped (on equal hardware).
    """

    source: Source
    filter: Filter = field(default_factory=lambda: SessionFilter(skip_marked=True))
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        results = train(self, Console(stderr=True))
        if self.json:
            each = [asdict(result) | {"improvement": result.improvement()} for result in results]
            _print_json(each[0] if self.seeds == 1 else each)
            return
        for result in results:
            best = result.best_validation
            print(
                f"{result.run}: {result.updates} updates, {result.steps:,} steps, {result.steps_per_second:,.0f} steps/s "
                f"({result.train_seconds:.0f} s of updates, {result.compile_seconds:.0f} s of compiling)\n"
                f"Return per episode on the training data: {dollars(result.first_evaluation['total_return']['mean'])} "
                f"untrained, {dollars(result.last_evaluation['total_return']['mean'])} now"
                + (
                    f"; {dollars(best['metrics']['total_return']['mean'])} on markets held out, at its best"
                    if best
                    else ""
                )
            )
        if not results[0].finished:
            print(f"Stopped early: go on with the same command and --out {self.out or results[0].run} --resume")


@dataclass(frozen=True)
class Evaluate(Reading):
    """Judge a trained agent on every market and window of a source, beside policies that learn nothing.

    Prints return, Sharpe, drawdown, trades, fees and what the return is made of, with 95% intervals over markets, under each
    queue model, and writes a report for a browser. Use recordings that the agent has not trained on.

    How much of its return on the training markets does it keep on others?
    kalshi-jax evaluate runs/mine "recordings/new-*.jsonl.gz" --seen training
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder that `train` wrote."""
    source: Source
    """Recordings to judge on: paths, globs in quotes, a postgresql:// URL or a store."""
    sessions: tuple[str, ...] = ()
    """Sessions of the source to judge on, by id; by default all that are not marked empty or test."""
    part: Literal["train", "validation", "test"] | None = None
    """Only the markets of the source that are in this part of the run's own split; all of them by default."""
    queue_models: tuple[QueueModel, ...] = BOTH
    """How the queue ahead of a resting order shrinks: a table for each. The truth lies most likely between these two."""
    seen: tuple[str, ...] = ()
    """Recordings that the agent was trained on, to compare with; "training" stands for those of the run."""
    seeds: int = SEEDS
    """Episodes per window, for policies that draw their actions."""
    report: Path | None = None
    """The page to write; RUN/report.html by default."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        judgement, page = evaluate_run(
            self.run_folder,
            self.source,
            self.session_config(self.sessions, SessionFilter(skip_marked=True)),
            part=self.part,
            seeds=self.seeds,
            page=self.report,
            queue_models=self.queue_models,
            seen=self.seen,
        )
        if self.json:
            _print_json({"report": str(page)} | judgement.as_json())
            return
        console = Console()
        print_judgement(console if console.is_terminal else Console(width=WIDE), judgement)
        print(f"Report: {page}")


@dataclass(frozen=True)
class Export:
    """Write a trained agent as a policy that runs with jax and numpy alone: for a live trader, or to keep.

    The policy is a folder of two files: policy.bin is the network with its weights, for any batch size, on CPU, CUDA and
    TPU; policy.json names what goes in and what comes out, and tells what the agent has learned from. `agents.policy`
    reads it: that file needs nothing else of this project. What was written is read back, held against the network, and
    timed.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder that `train` wrote."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="POLICY")] = None
    """Folder to write; RUN/policy by default. A policy that is there is replaced."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        result = export_run(self.run_folder, self.out)
        if self.json:
            _print_json(asdict(result))
            return
        print(
            f"{result.policy}: {result.weights:,} weights, {result.size_bytes / 1000:,.0f} kB, for {', '.join(PLATFORMS)}; "
            f"differs from the network by {result.largest_difference:.2g} at most\n"
            f"A decision takes {result.median_ms:.3f} ms on this {result.platform} (batch 1, median of {CALLS:,}; one in a "
            f"hundred takes more than {result.slowest_percent_ms:.3f} ms), after {result.compile_seconds:.1f} s of compiling"
        )


COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "sessions": Sessions,
    "build": Build,
    "book": Book,
    "train": Train,
    "evaluate": Evaluate,
    "export": Export,
}


@contextmanager
def show_progress(quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """Show a bar of sessions read on standard error while in here, if that is a terminal; gives what a loader calls."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("Reading"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total or None, description=escape(name))


def _print_json(value: Any) -> None:
    """Print strict JSON: NaN becomes null."""

    def clean(x: Any) -> Any:
        if isinstance(x, dict):
            return {str(key): clean(item) for key, item in x.items()}
        if isinstance(x, list | tuple):
            return [clean(item) for item in x]
        if isinstance(x, float) and x != x:
            return None
        return str(x) if isinstance(x, Path) else x

    print(json.dumps(clean(value), indent=2, allow_nan=False))
