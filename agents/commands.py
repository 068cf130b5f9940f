"""The commands of `kalshi-jax`: each is a dataclass whose docstrings are its help."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from agents.demo import DemoConfig, run_demo
from agents.evaluation import dollars
from agents.report import evaluate_run, print_outcomes
from agents.runs import Reading, TrainConfig, describe_data
from agents.training import train
from loaders import SessionDataLoader, book_at, cached_tape, load_tape

Source = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]


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
    """

    source: Source
    """Recordings (a path, several, or a glob in quotes), a postgresql:// URL, a store, or "synthetic:..."."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        sessions = SessionDataLoader(list(self.source), self.session_config()).catalogue()
        if self.json:
            _print_json([asdict(session) for session in sessions])
            return
        table = Table(
            "session",
            "started (UTC)",
            "hours",
            "markets (settled)",
            "deltas",
            "gaps",
            "crossed inside/after",
            "dropped",
        )
        for column in table.columns[2:]:
            column.justify = "right"
        for session in sessions:
            report = session.report
            name = session.session_id + (" SYNTHETIC" if session.synthetic else "")
            hours = ((session.ended_at_ms or session.started_at_ms) - session.started_at_ms) / 3_600_000
            table.add_row(
                name,
                _utc(session.started_at_ms),
                f"{hours:.2f}",
                f"{len(session.tickers)} ({session.settled})",
                f"{session.deltas:,}",
                str(report.sequence_gaps),
                f"{report.crossed_inside} / {report.crossed_after}",
                str(sum(report.dropped.values())),
            )
        Console().print(table)
        Console().print(f"{len(sessions)} sessions, {sum(s.deltas for s in sessions):,} deltas")


@dataclass(frozen=True)
class Build(Reading):
    """Load a source once and keep the result on disk; every command takes the store as its SOURCE and starts at once.

    A store that was made from just this source, as it is now, is left as it is.
    """

    source: Source
    """Recordings (a path, several, or a glob in quotes), or a postgresql:// URL."""
    out: Annotated[Path, tyro.conf.arg(metavar="STORE")]
    """Folder to write."""
    force: bool = False
    """Build the store even if it is up to date."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        tape, index, why = cached_tape(list(self.source), self.out, self.session_config(), rebuild=self.force)
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
            "YES bid, cents", "contracts", "NO bid, cents", "contracts ", title=f"{self.market} {_utc(time_ms)}"
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
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        result = train(self, Console(stderr=True))
        if self.json:
            _print_json(asdict(result) | {"improvement": result.improvement()})
            return
        print(
            f"{result.run}: {result.updates} updates, {result.steps:,} steps, {result.steps_per_second:,.0f} steps/s "
            f"({result.train_seconds:.0f} s of updates, {result.compile_seconds:.0f} s of compiling)\n"
            f"Return per episode on the training data: {dollars(result.first_evaluation['total_return']['mean'])} untrained, "
            f"{dollars(result.last_evaluation['total_return']['mean'])} now"
        )
        if not result.finished:
            print(f"Stopped early: go on with the same command and --out {result.run} --resume")


@dataclass(frozen=True)
class Evaluate(Reading):
    """Judge a trained agent on every market and window of a source, beside policies that learn nothing.

    Prints return, Sharpe, drawdown, trades and fees with 95% intervals, and writes a report for a browser. Use
    recordings that the agent has not trained on.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder that `train` wrote."""
    source: Source
    """Recordings to judge on: paths, globs in quotes, a postgresql:// URL or a store."""
    sessions: tuple[str, ...] = ()
    """Sessions of the source to judge on, by id; all of them by default."""
    seeds: int = 3
    """Episodes per window, for policies that draw their actions."""
    report: Path | None = None
    """The page to write; RUN/report.html by default."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> None:
        """Run the command."""
        outcomes, page = evaluate_run(
            self.run_folder, self.source, self.session_config(self.sessions), self.seeds, self.report
        )
        if self.json:
            _print_json({"report": str(page), "policies": {o.policy: o.summary() for o in outcomes}})
            return
        print_outcomes(Console(), outcomes)
        print(f"Report: {page}")


COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "sessions": Sessions,
    "build": Build,
    "book": Book,
    "train": Train,
    "evaluate": Evaluate,
}


def parse_time(text: str) -> int:
    """Read a moment as epoch ms: a whole number of ms, or ISO 8601, UTC where it names no zone."""
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"time {text!r}: expected 2026-05-13T14:30:00 or milliseconds since 1970") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


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
