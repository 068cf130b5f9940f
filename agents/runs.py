"""The folder of a training run: its settings, its data, its metrics and its checkpoints."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from agents.networks import ActorCritic
from agents.ppo import HyperParameters, Layout, Learner
from kalshi_jax import EnvParams, MarketAgnosticKalshiEnv, Tape
from loaders import SessionConfig, SessionFilter, Split
from loaders.postgres import redact


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a source is read."""

    metadata: str | None = None
    """A JSON file of the markets' close times, results and fees; without it holdings end at their last mark."""
    skip_bad_rows: bool = False
    """Leave out and count lines of a recording that are broken, and what follows where a gzip file is cut short."""
    strict: bool = False
    """Refuse a session with anything left out, repaired or missing; the first such row is named where it is known."""

    def session_config(self, sessions: tuple[str, ...] = (), filter: SessionFilter | None = None) -> SessionConfig:
        """Say it to a loader, and which sessions."""
        chosen: Any = {field.name: getattr(self, field.name) for field in fields(Reading)}
        return SessionConfig(session_pool=sessions, filter=filter or SessionFilter(), **chosen)


@dataclass(frozen=True)
class TrainConfig(Reading):
    """Train an agent on recorded order books.

    SOURCE is one or more recordings (a path, or a glob in quotes), a postgresql:// URL, or a store written by
    `kalshi-jax build`. The run folder gets the configuration, metrics.jsonl, TensorBoard logs and checkpoints.
    """

    source: tuple[str, ...]
    """Recordings to train on: paths, globs in quotes, a postgresql:// URL or a store."""
    sessions: tuple[str, ...] = ()
    """Sessions of the source to train on, by id; all of them by default."""
    filter: SessionFilter = field(default_factory=lambda: SessionFilter(skip_marked=True))
    out: Path | None = None
    """Folder of the run; runs/<date and time> by default."""
    total_steps: int = 5_000_000
    """Environment steps, over all parallel episodes."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint. The other settings must be those it began with, except
    --total-steps, which may be more, and the source, which may have moved."""
    seed: int = 0
    """Of everything random; the same seed gives the same run."""
    seeds: int = 1
    """Agents to train side by side in one program, with --seed and the seeds after it; each gets a folder inside the run's."""
    split: Literal["none", "time", "series", "both"] = "none"
    """Hold markets out for validation and for a test that nobody sees: later ones, whole series, or later ones of other series.
    Of the checkpoints the one that earns most in validation is kept as the best."""
    validation_share: float = 0.15
    """Of the changes, held out for validation."""
    test_share: float = 0.15
    """Of the changes, held out for the test."""
    curriculum: bool = False
    """Draw from calm sessions of one market first, from moderate ones of several markets then, and from all in the end."""

    max_markets: int = 1
    """Markets traded at once."""
    orders_per_market: int = 1
    """Actions per market and step; 2 lets one step buy YES and NO of the same market."""
    order_sizes: tuple[int, ...] = (10,)
    """Contracts of an order; each size adds eight actions."""
    episode_length: int = 1000
    """Steps of an episode."""
    decision_interval_ms: int = 1000
    """Time between decisions; 0 decides at every change of the book."""
    latency_ms: int = 0
    """Time from a decision to the arrival of its orders at the exchange."""
    mark: Literal["mid", "exit"] = "mid"
    """How holdings are valued: at the middle of the book, or at what the book would pay."""
    initial_cash: float = 10_000.0
    """Starting capital in dollars."""
    temporal_features: bool = True
    """Show the agent the rhythm and momentum of the market, not only its book."""
    sequence_features: bool = True
    """Show the agent what the market did over its last changes: trend, volatility, order flow."""
    queue_model: Literal["risk_averse", "power", "log", "optimistic"] = "risk_averse"
    """How the queue ahead of a resting order shrinks when its level does and no trade explains it."""

    hold_cancels: bool = True
    """HOLD takes a resting order out of the book; otherwise it stays until another takes its slot."""
    risk_weight: float = 0.0
    """Of the differential Sharpe ratio in the reward."""
    timing_weight: float = 0.0
    """Of what the market did after each trade in the reward."""
    discovery_weight: float = 0.0
    """Of what is tried for the first time in an episode in the reward."""

    certain_fill: Literal["whole", "displayed"] = "whole"
    """What a resting order gets when the other side comes to its price: its whole remainder, or no more than shows there."""

    num_envs: int = 1024
    """Parallel episodes."""
    rollout_length: int = 32
    """Steps of every episode between two updates of the agent."""
    epochs: int = 2
    """Passes over the data of an update."""
    minibatches: int = 4
    """Parts of a pass, each followed by a step of the optimizer."""
    width: int = 64
    """Units of the network's layers."""
    memory: int = 0
    """Units of a recurrent part that carries what was seen of each market from step to step; 0: none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's layers, the last ones and all weights excepted."""
    learning_rate: float = 5e-4
    """Of Adam at the beginning; it goes linearly to --final-learning-rate over the run."""
    final_learning_rate: float = 0.0
    """Of Adam at the end."""
    discount: float = 0.99
    """Weight of the next step's reward."""
    gae_lambda: float = 0.95
    """Trust in rewards seen (1) against the agent's own estimates (0)."""
    clip: float = 0.2
    """How far an update may move the probability of an action."""
    entropy_weight: float = 0.01
    """Reward for trying different actions, at the beginning; it goes linearly to --final-entropy-weight over the run."""
    final_entropy_weight: float | None = None
    """Reward for trying different actions at the end; by default that of the beginning."""
    value_weight: float = 0.5
    """Weight of the value estimate in the loss."""
    max_grad_norm: float = 0.5
    """Gradients longer than this are shortened to it."""
    target_kl: float = 0.0
    """An update ends early where it has moved the policy 1.5 times as far, in nats; 0: never."""

    evaluate_every: int = 50
    """Updates between evaluations; there is one before the first update and one after the last in any case."""
    evaluation_windows: int = 256
    """Windows of the training recordings in such an evaluation, evenly chosen."""
    checkpoint_every: int = 25
    """Updates between checkpoints."""
    keep_checkpoints: int = 3
    """Checkpoints kept, the newest ones."""
    devices: int = 0
    """Devices to divide the parallel episodes among; 0 takes all that divide them evenly."""

    def __post_init__(self) -> None:
        for name in (
            "total_steps",
            "evaluate_every",
            "checkpoint_every",
            "keep_checkpoints",
            "seeds",
            "width",
            "episode_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")

        self.layout  # noqa: B018 - raises where its numbers do not fit

    @property
    def layout(self) -> Layout:
        """Sizes of the training step."""
        return Layout(self.num_envs, self.rollout_length, self.epochs, self.minibatches)

    @property
    def seeds_used(self) -> tuple[int, ...]:
        """The seed of each agent."""
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return math.ceil(self.total_steps / self.layout.steps)


@dataclass
class RunFolder:
    """The files of a run."""

    path: Path
    keep: int = 3
    _managers: dict[str, Any] = field(default_factory=dict, repr=False)

    def of_seeds(self, seeds: Sequence[int]) -> list[RunFolder]:
        """Give the folders, inside this one, of the agents of a run of several seeds."""
        return [RunFolder(self.path / f"seed-{seed}", self.keep) for seed in seeds]

    @property
    def config_file(self) -> Path:
        """Configuration and a description of the data."""
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line: `kind` is "update", "evaluation", "validation" or "warning"."""
        return self.path / "metrics.jsonl"

    @property
    def split_file(self) -> Path:
        """Which markets were held out, where some were: a `loaders.Split`."""
        return self.path / "split.json"

    def split(self) -> Split:
        """Read which markets were held out."""
        if not self.split_file.exists():
            raise FileNotFoundError(
                f"{self.path} held nothing out: train with --split time, series or both to have parts"
            )
        return Split.from_json(json.loads(self.split_file.read_text()))

    def checkpoints(self) -> Any:
        """The Orbax manager of the run's checkpoints."""
        return self._manager("checkpoints", self.keep)

    def best(self) -> Any:
        """The Orbax manager of the checkpoint that earned most in validation."""
        return self._manager("best", 1)

    def _manager(self, name: str, keep: int) -> Any:
        if name not in self._managers:
            options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
            self._managers[name] = ocp.CheckpointManager((self.path / name).absolute(), options=options)
        return self._managers[name]

    def save(self, learner: Learner) -> None:
        """Write a checkpoint, unless it is there, and wait for it: the next update reuses the learner's memory."""
        if self.checkpoints().latest_step() == int(learner.updates):
            return
        rest = replace(learner, weights=None)
        items = ocp.args.Composite(weights=_as_numpy(learner.weights), rest=ocp.args.StandardSave(rest))
        self.checkpoints().save(int(learner.updates), args=items)
        self.checkpoints().wait_until_finished()

    def save_best(self, learner: Learner) -> None:
        """Keep a learner's weights as the best ones."""
        items = ocp.args.Composite(weights=_as_numpy(learner.weights))
        self.best().save(int(learner.updates), args=items, force=True)
        self.best().wait_until_finished()

    def restore(self, template: Learner, update: int) -> Learner:
        """Read the checkpoint after an update into the shapes of `template`, a learner or its shapes.

        Raises:
            ValueError: it holds something else, as one of another version of this package does.
        """
        rest = replace(template, weights=None)
        items = ocp.args.Composite(
            weights=ocp.args.StandardRestore(template.weights), rest=ocp.args.StandardRestore(rest)
        )
        try:
            restored = self.checkpoints().restore(update, args=items)
        except ValueError as error:
            raise ValueError(
                f"{self.path}: its checkpoint of update {update} does not hold what this version trains: its weights can be "
                f"evaluated, but to train, begin another run without --resume ({error})"
            ) from error
        return replace(restored["rest"], weights=restored["weights"])

    def restore_weights(self, newest: bool = False) -> Any:
        """Read the network weights of the best checkpoint, or of the newest one, where none was validated or it is asked for."""
        there = (self.path / "best").is_dir() and self.best().latest_step() is not None
        manager = self.best() if there and not newest else self.checkpoints()
        if manager.latest_step() is None:
            raise FileNotFoundError(f"{self.path} has no checkpoint: train first, or name another run")
        items = ocp.args.Composite(weights=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=items)["weights"]

    def records(self) -> list[dict[str, Any]]:
        """Read the metrics, oldest first."""
        return [json.loads(line) for line in self.metrics_file.read_text().splitlines()]

    def best_record(self) -> dict[str, Any] | None:
        """Find the validation that earned most, the first of equals; None if there is none."""
        judged = [r for r in self.records() if r["kind"] == "validation"] if self.metrics_file.exists() else []
        return max(judged, key=lambda r: r["metrics"]["total_return"]["mean"], default=None)

    def best_return(self) -> float:
        """Give the mean return of that validation, $."""
        record = self.best_record()
        return -math.inf if record is None else record["metrics"]["total_return"]["mean"]

    def forget_after(self, update: int) -> None:
        """Drop metrics of updates that a resumed run will do again, and a line that a kill cut short."""
        if self.metrics_file.exists():
            lines = self.metrics_file.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["update"] <= update]
            self.metrics_file.write_text("".join(kept))


def _as_numpy(weights: Any) -> Any:
    """Save weights without the devices that they were on: others may use them elsewhere."""
    return ocp.args.StandardSave(jax.device_get(weights))


def make_agent(config: TrainConfig) -> tuple[MarketAgnosticKalshiEnv, ActorCritic]:
    """Build the environment and the network that a configuration asks for; no data is needed."""
    env = MarketAgnosticKalshiEnv(
        max_markets=config.max_markets,
        orders_per_market=config.orders_per_market,
        order_sizes=config.order_sizes,
        temporal_features=config.temporal_features,
        sequence_features=config.sequence_features,
    )
    sizes = (config.orders_per_market, config.width, config.memory)
    return env, ActorCritic(env.num_actions, *sizes, precision=config.precision)


def make_environment(config: TrainConfig, tape: Tape) -> tuple[MarketAgnosticKalshiEnv, EnvParams, ActorCritic]:
    """Build the environment, its parameters and the network that a configuration asks for."""
    env, network = make_agent(config)
    params = env.make_params(
        tape,
        episode_length=config.episode_length,
        decision_interval_ms=config.decision_interval_ms,
        mark=config.mark,
        latency_ms=config.latency_ms,
        hold_cancels=config.hold_cancels,
        queue_model=config.queue_model,
        certain_fill=config.certain_fill,
        initial_cash=config.initial_cash,
        risk_weight=config.risk_weight,
        timing_weight=config.timing_weight,
        discovery_weight=config.discovery_weight,
    )
    return env, params, network


def hyper_parameters(config: TrainConfig) -> HyperParameters:
    """Make the algorithm's numbers from a configuration."""
    names = {f.name for f in fields(HyperParameters)} & {f.name for f in fields(TrainConfig)}
    values = {name: getattr(config, name) for name in names} | {"anneal_updates": config.updates}
    if config.final_entropy_weight is None:
        values["final_entropy_weight"] = config.entropy_weight
    return HyperParameters(**{name: jnp.float32(value) for name, value in values.items()})


def describe_data(tape: Tape, index: Any) -> dict[str, Any]:
    """Say what a tape holds, for the run's configuration, its report, and the check that a resumed run has the same."""
    rows = np.asarray(tape.track_length)[: tape.num_markets]
    return {
        "sessions": tape.num_sessions,
        "session_ids": [session.session_id for session in index.sessions],
        "markets": tape.num_markets,
        "changes": int(rows.sum()),
        "synthetic": any(session.synthetic for session in index.sessions),
        "fingerprint": f"{zlib.crc32(np.asarray(tape.levels).data, zlib.crc32(np.asarray(tape.time_ms).data)):08x}",
    }


def load_run(path: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Read a run's configuration and the description of its data."""
    file = RunFolder(path).config_file
    if not file.exists():
        raise FileNotFoundError(f"{path} is not a run: it has no config.json; name a folder that `train` has written")
    saved = json.loads(file.read_text())
    settings = saved["settings"]
    settings |= {name: tuple(settings[name]) for name in ("source", "sessions", "order_sizes")}
    conditions: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.get("filter", {}).items()
    }
    return TrainConfig(**settings | {"filter": SessionFilter(**conditions), "out": path}), saved["data"]


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Say what a run does, apart from where it lies; passwords of URLs are left out."""
    settings = {f.name: getattr(config, f.name) for f in fields(TrainConfig) if f.name not in ("out", "resume")}
    settings["filter"] = asdict(config.filter)
    return settings | {"source": [redact(part) if "://" in part else part for part in config.source]}


def remember_settings(folder: RunFolder, config: TrainConfig, data: dict[str, Any], split: Split | None = None) -> None:
    """Write the configuration, or check it against the one the run began with."""
    settings = settings_of(config)
    if not config.resume:
        folder.path.mkdir(parents=True, exist_ok=True)
        versions = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
        content = {"settings": settings, "data": data, "versions": versions}
        folder.config_file.write_text(json.dumps(content, indent=2) + "\n")
        if split is not None:
            folder.split_file.write_text(json.dumps(asdict(split)) + "\n")
        return
    before = json.loads(folder.config_file.read_text())
    now = json.loads(json.dumps({"settings": settings, "data": data}))
    for part in ("settings", "data"):
        for name, value in now[part].items():
            if name not in ("source", "total_steps") and before[part].get(name, value) != value:
                raise ValueError(
                    f"{folder.path} began with {name} = {before[part][name]}, but now it is {value}: resume with the same"
                )
