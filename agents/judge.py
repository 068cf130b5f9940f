"""Judging a run: its agent and the baselines on a source, under several queue models, and against markets it has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agents.evaluation import SEEDS, Outcome, compare_seen, evaluate
from agents.examples import Example, choose_examples
from agents.intervals import Retention
from agents.judgement import Judgement
from agents.report import write_report
from agents.runs import RunFolder, TrainConfig, describe_data, load_run, make_environment, settings_of
from agents.windows import Windows, all_windows
from kalshi_jax.tape import Tape
from loaders import SessionConfig, SessionFilter, TapeIndex, load_tape, select_markets

QueueModel = Literal["risk_averse", "power", "log", "optimistic"]
BOTH: tuple[QueueModel, ...] = ("risk_averse", "power")
AGENTS = ("agent", "greedy agent")
TRAINING = "training"  # in place of a source: what the run was trained on


def evaluate_run(
    run: Path,
    source: Sequence[str],
    chosen: SessionConfig | None = None,
    *,
    part: str | None = None,
    seeds: int = SEEDS,
    page: Path | None = None,
    queue_models: Sequence[QueueModel] = BOTH,
    seen: Sequence[str] = (),
) -> tuple[Judgement, Path]:
    """Play a run's newest agent and the baselines on a source and write the report.

    Args:
        run: folder of the run.
        source: to play on.
        chosen: sessions of the source, and how they are read; by default all that are not marked empty or test.
        seeds: episodes per window, for policies that draw.
        page: of the report; `run`/report.html by default.
        chosen: sessions of the source, and how they are read; by default all that are not marked empty or test.
        part: of the run's split, whose markets alone are played; None: all.
        seeds: episodes per window, for policies that draw.
        page: of the report; `run`/report.html by default.
        queue_models: each gives outcomes of its own.
        seen: a source that the agent was trained on, to compare with, or (TRAINING,) for the run's own; of its windows at
            most as many are played as the first source has.

    Returns:
        what was found, and the page.
    """
    config, trained_on = load_run(run)
    folder = RunFolder(run)
    weights = folder.restore_weights()
    chosen = chosen or SessionConfig(filter=SessionFilter(skip_marked=True))
    tape, index = load_tape(list(source), chosen)
    if part:
        tape, index = select_markets(tape, index, folder.split().parts[part])
    windows = _windows(config, tape)
    outcomes: dict[str, list[Outcome]] = {}
    examples: list[Example] = []
    for model in queue_models:
        env, params, network = make_environment(replace(config, queue_model=model), tape)
        outcomes[model] = evaluate(env, network, weights, params, windows, seeds=seeds)
        examples = examples or choose_examples(outcomes[model][0], env, network, weights, params, windows)
    retained: dict[str, dict[str, Retention]] = {}
    seen_on = None
    if seen:
        seen_tape, seen_index = _load_seen(config, folder, seen, chosen)
        seen_windows, seen_on = _windows(config, seen_tape, len(windows.start_ms)), describe_data(seen_tape, seen_index)
        for model in queue_models:
            env, params, network = make_environment(replace(config, queue_model=model), seen_tape)
            before = evaluate(env, network, weights, params, seen_windows, AGENTS, seeds)
            retained[model] = compare_seen(outcomes[model], before)
    prints = len(tape.trades)
    names = [_name(example, tape, index) for example in examples]
    judgement = Judgement(outcomes, retained, examples, names, describe_data(tape, index), seen_on, prints)
    page = page or run / "report.html"
    return judgement, write_report(page, judgement, settings_of(config), trained_on, folder.records())


def _windows(config: TrainConfig, tape: Tape, limit: int = 0) -> Windows:
    return all_windows(tape, config.max_markets, config.episode_length, config.decision_interval_ms, limit)


def _load_seen(
    config: TrainConfig, folder: RunFolder, seen: Sequence[str], chosen: SessionConfig
) -> tuple[Tape, TapeIndex]:
    if tuple(seen) != (TRAINING,):
        return load_tape(list(seen), replace(chosen, session_pool=()))
    tape, index = load_tape(list(config.source), config.session_config(config.sessions, config.filter))
    return (tape, index) if config.split == "none" else select_markets(tape, index, folder.split().train)


def _name(example: Example, tape: Tape, index: Any) -> str:
    session = index.sessions[int(tape.market_session[example.market])]
    moment = np.datetime64(session.started_at_ms + example.start_ms, "ms").astype("datetime64[s]")
    return f"{index.tickers[example.market]}, from {str(moment).replace('T', ' ')} UTC"
