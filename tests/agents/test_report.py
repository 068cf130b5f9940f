"""A report says what was found in words and pictures that a trader can check."""

import re

import numpy as np
import pytest

from agents.evaluation import COMPONENTS, METRICS, Breakdown, Outcome
from agents.examples import Example
from agents.intervals import Retention
from agents.judgement import Judgement, describe_retention, format_figure
from agents.play import POLICIES
from agents.report import write_report

NAN = float("nan")
DATA = {"sessions": 1, "session_ids": ["a"], "markets": 6, "changes": 9, "synthetic": False}
SETTINGS = {"decision_interval_ms": 0, "order_sizes": (10,), "source": ["<b>mine</b>"], "seed": 0}


def outcome_of(policy, returns, clusters=None):
    """An outcome of n windows, one seed, whose only figures are returns; half of it spread, half of it fees."""
    metrics = {name: np.zeros((1, len(returns))) for name in METRICS | COMPONENTS}
    metrics |= {"total_return": returns[None], "contracts": np.full((1, len(returns)), 100.0)}
    metrics |= {"pnl_spread_captured": returns[None] / 2, "pnl_fees": returns[None] / 2}
    value = 100 + np.linspace(0, 1, 11)[:, None] * returns
    decisions = np.full((len(returns), 4), 5)
    conditions = {"spread": Breakdown(decisions, returns[:, None] * np.array([0.25, 0, 0, 0.75]))}
    conditions["time to close"] = Breakdown(np.eye(5, dtype=int)[np.full(len(returns), 4)], np.zeros((len(returns), 5)))
    return Outcome(policy, metrics, value, np.arange(9), 40.0, 60.0, clusters, conditions)


def judge(returns=2.0, clusters=None, prints=5, **changes):
    spread = np.linspace(-1, 1, 6)
    outcomes = [outcome_of(policy, returns + spread - i, clusters) for i, policy in enumerate(POLICIES)]
    steps = np.arange(4)
    fills = np.array([10, 0, -10, 0])
    example = Example(
        "a typical episode", 0, 0, 40.0 + steps, 42.0 + steps, fills.cumsum(), fills, -fills, np.arange(5.0)
    )
    found = {"outcomes": {"risk_averse": outcomes, "power": outcomes}, "retention": {}, "examples": [example]}
    found |= {"names": ["KX<T>, from noon"], "evaluated_on": DATA, "seen_on": None, "trade_prints": prints}
    return Judgement(**found | changes)


def page_of(tmp_path, judgement):
    page = write_report(tmp_path / "report.html", judgement, SETTINGS, DATA, []).read_text()
    return re.sub(r'base64,[^"]*', "", page)


def test_the_page_tells_a_gain_and_who_was_beaten(tmp_path):
    text = page_of(tmp_path, judge())
    assert "the <b>agent</b> made <b>$2.00</b> per episode on average under the cautious queue model" in text
    assert "Under the shared queue model: <b>$2.00</b>" in text
    assert "above greedy agent, random, hold, always take, momentum, market maker." in text
    assert "trade prints" not in text
    assert "Seen and unseen" not in text
    assert text.count("<img") == 6
    assert "KX&lt;T&gt;, from noon" in text
    assert "&lt;b&gt;mine&lt;/b&gt;" in text, "nothing of a recording or a setting is taken for HTML"
    assert "nan" not in text.lower()


def test_the_page_tells_a_loss_and_what_its_figures_cannot_say(tmp_path):
    text = page_of(tmp_path, judge(returns=-3.0, clusters=np.zeros(6, int), prints=0))
    assert "the <b>agent</b> lost <b>$3.00</b>" in text
    assert "These recordings have no trade prints" in text
    assert "All windows here are of one market" in text
    assert "No pace: this agent does not see the rhythm of the market" in text


def test_conditions_are_dollars_per_thousand_decisions(tmp_path):
    breakdown = outcome_of("agent", np.full(6, 2.0)).breakdown()
    assert breakdown["spread"]["up to 1 cent"]["mean"] == pytest.approx(1000 * 0.25 * 2 / 5)
    assert [x["share"] for x in breakdown["spread"].values()] == [0.25] * 4
    text = page_of(tmp_path, judge())
    assert "not known" in text
    assert "above 15 min" not in text, "classes that were never met with are left out"


def test_retention_is_told_in_words(tmp_path):
    kept = Retention(2.0, 4.0, 0.5, 0.3, 0.8, "")
    told = "$2.00 per episode on unseen markets, $4.00 on seen ones: it keeps 50% (95% interval 30% to 80%)"
    assert describe_retention(kept) == told
    assert told in page_of(tmp_path, judge(retention={"power": {"agent": kept}}, seen_on=DATA))
    unsure = Retention(2.0, 4.0, 0.5, NAN, NAN, "no interval: not sure")
    assert describe_retention(unsure).endswith("it keeps 50% (no interval: not sure)")
    none = Retention(2.0, -4.0, NAN, NAN, NAN, "it earned nothing")
    assert describe_retention(none).endswith("-$4.00 on seen ones; no share to speak of: it earned nothing")


def test_figures_are_written_as_their_kind_asks():
    written = [
        ("fees", -0.001),
        ("maker_share", 0.256),
        ("contracts", 1234.4),
        ("sharpe_per_step", 0.01),
        ("fees", NAN),
    ]
    assert [format_figure(*figure) for figure in written] == ["0.00", "26%", "1,234", "0.0100", "-"]
