"""The command line: results as JSON, errors as one line, and the whole way from a source to a report."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.cli import main
from agents.evaluation import POLICIES
from tests.loaders.exchange_frames import START, delta, snapshot, write

SOURCE = "synthetic:sessions=2,markets=2,seconds=120"
SMALL = [
    "--num-envs=8",
    "--rollout-length=4",
    "--minibatches=2",
    "--episode-length=50",
    "--evaluation-windows=4",
    "--width=8",
    "--no-temporal-features",  # the smaller program compiles faster; the demo has them all
    "--no-sequence-features",
]


@pytest.fixture
def call(capsys):
    """Run a command and return what it printed."""

    def run(*arguments):
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def failure(capsys):
    """Run a command that must fail and return the line that says why."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run through the command line."""
    path = tmp_path_factory.mktemp("runs") / "run"
    main(["train", SOURCE, "--out", str(path), "--total_steps", "1_00", *SMALL])
    return path


def test_sessions_are_listed(call):
    sessions = json.loads(call("sessions", SOURCE, "--json"))
    assert [len(session["tickers"]) for session in sessions] == [2, 2]
    assert all(session["synthetic"] and session["report"]["deltas"] > 0 for session in sessions)
    table = call("sessions", SOURCE)
    assert f"2 sessions, {sum(s['report']['deltas'] for s in sessions):,} deltas" in table


@pytest.fixture
def folder(tmp_path):
    """Recordings: a busy one, one with a book that never changes, and an empty one."""
    moving = [delta("A", 2 + n, "yes", 30, 1, START + 1000 * n) for n in range(9)]
    write(tmp_path / "busy.jsonl", [snapshot("A", 1, [(40, 5)], [(58, 7)]), *moving])
    write(tmp_path / "still.jsonl", [snapshot("B", 1, [(40, 5)], [(56, 7)], START + 86_400_000)])
    write(tmp_path / "nothing.jsonl", [])
    return tmp_path


def test_sessions_are_filtered_sorted_and_marked(call, folder):
    def names(*arguments):
        return [session["session_id"] for session in json.loads(call("sessions", folder, *arguments, "--json"))]

    assert names() == ["nothing", "busy", "still"]
    assert names("--sort", "quality") == ["busy", "still", "nothing"]
    assert names("--sort", "session", "--reverse") == ["still", "nothing", "busy"]
    assert names("--skip-marked") == ["busy"]
    assert names("--least-changes", "1", "--most-spread", "2", "--status", "unknown") == ["busy"]
    assert names("--since", "2023-11-15", "--until", "2023-11-17") == ["still"]
    assert names("--environment", "production", "paper") == []
    (busy, still) = json.loads(call("sessions", folder, "--least-markets", "1", "--json"))
    assert set(busy["quality"]) == {"score", "completeness", "consistency", "coverage", "activity", "duration"}
    assert busy["statistics"]["spread_cents"] == 2
    assert (busy["stage"], busy["marks"]) == ("stable", {})
    assert still["marks"] == {"empty": "no change of a book was recorded"}
    table = call("sessions", folder)
    assert "3 sessions, 9 deltas" in table
    assert "empty: no change of a book was recorded (2 of the sessions)" in table
    assert "0 sessions, 0 deltas" in call("sessions", folder, "--least-changes", "1000")


def test_the_page_of_sessions_needs_nothing_else(call, folder, tmp_path):
    out = tmp_path / "pages" / "sessions.html"
    assert f"Page: {out}" in call("sessions", folder, "--page", out)
    page = out.read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    text = re.sub(r'base64,[^"]*', "", page)
    assert "nan" not in text.lower()
    assert "SYNTHETIC" not in text
    assert [text.count(name) for name in ("<td>busy", "<td>still", "<td>nothing")] == [1, 1, 1]
    assert "2 are marked and of no use for training" in text
    call("sessions", folder, "--least-changes", "1000", "--page", out)  # nothing to draw
    assert "<b>0</b> sessions" in out.read_text()
    call("sessions", SOURCE, "--page", out)
    assert "SYNTHETIC DATA" in out.read_text()


def test_reading_shows_a_bar_on_a_terminal_but_not_beside_json(capsys, monkeypatch, folder):
    main(["sessions", str(folder)])
    assert capsys.readouterr().err == "", "no terminal, no bar"
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    main(["sessions", str(folder)])
    assert "Reading" in capsys.readouterr().err
    main(["sessions", str(folder), "--json"])
    assert capsys.readouterr().err == ""


def test_a_store_is_built_of_the_sessions_that_pass(call, folder, tmp_path):
    def built(*arguments):
        return json.loads(call("build", folder, "--out", tmp_path / "store", "--json", *arguments))["session_ids"]

    assert built() == ["busy"], "marked sessions are left out"
    listed = json.loads(call("sessions", tmp_path / "store", "--json"))
    assert {session["session_id"]: list(session["marks"]) for session in listed} == {
        "busy": [],
        "still": ["empty"],
        "nothing": ["empty", "no book"],
    }
    assert built("--no-skip-marked") == ["busy", "still"]


def test_a_store_is_built_and_read_and_shows_the_same_book(call, tmp_path):
    built = json.loads(call("build", SOURCE, "--out", tmp_path / "store", "--json"))
    assert (built["sessions"], built["markets"], built["synthetic"]) == (2, 4, True)
    session = json.loads(call("sessions", tmp_path / "store", "--json"))[1]
    at = session["started_at_ms"] + 60_000
    books = [
        json.loads(call("book", source, "--market", session["tickers"][0], "--at", at, "--json"))
        for source in (SOURCE, tmp_path / "store")
    ]
    assert books[0] == books[1]
    assert books[0]["yes_bids"]
    price, size = books[0]["yes_bids"][0]
    assert 0 < price < 100
    assert size == int(size)
    assert f"{price:g}" in call("book", SOURCE, "--market", session["tickers"][0], "--at", at)


@pytest.mark.parametrize(
    "command",
    [["sessions"], ["build", "--out", "STORE"], ["book", "--market=A", "--at=1700000000000"]],
)
def test_broken_lines_are_refused_or_left_out_and_nothing_is_when_strict(failure, tmp_path, command):
    path = write(tmp_path / "half.jsonl", [snapshot("A", 1, [(8, 3)]), '{"half', snapshot("A", 2, [(8, 3)])])
    place = str(tmp_path / "store")
    arguments = [command[0], path, *(argument.replace("STORE", place) for argument in command[1:])]
    assert "half.jsonl:2: line is not a JSON object" in failure(*arguments)
    strict = failure(*arguments, "--skip-bad-rows", "--strict")
    assert (
        "session half: 1 line is not a JSON object (first: line 2): expected nothing to leave out or repair" in strict
    )
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_broken_lines_are_left_out_and_shown_where_that_is_asked_for(call, tmp_path):
    path = write(tmp_path / "half.jsonl", [snapshot("A", 1, [(8, 3)]), '{"half', snapshot("A", 2, [(8, 3)])])
    (session,) = json.loads(call("sessions", path, "--skip-bad-rows", "--json"))
    assert session["report"]["dropped"] == {"line is not a JSON object": 1}
    assert session["report"]["first"] == {"line is not a JSON object": "line 2"}


def test_training_refuses_what_is_not_sound_where_that_is_asked_for(capsys, tmp_path):
    path = write(tmp_path / "half.jsonl", [snapshot("A", 1, [(8, 3)]), '{"half'])
    with pytest.raises(SystemExit):
        main(["train", str(path), "--out", str(tmp_path / "run"), "--skip-bad-rows", "--strict"])
    assert "kalshi-jax: session half: 1 line is not a JSON object (first: line 2)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_agent_is_trained_evaluated_and_reported(call, trained):
    settings = json.loads((trained / "config.json").read_text())["settings"]
    assert (settings["total_steps"], settings["source"]) == (100, [SOURCE])
    assert (settings["filter"]["skip_marked"], settings["filter"]["least_changes"]) == (True, 0)
    result = json.loads(call("evaluate", trained, SOURCE, "--seeds", "2", "--seen", "training", "--json"))
    assert set(result["queue_models"]) == {"risk_averse", "power"}
    for policies in result["queue_models"].values():
        assert set(policies) == set(POLICIES)
        assert policies["hold"]["total_return"] == {"mean": 0, "low": 0, "high": 0}
        assert policies["hold"]["maker_share"]["mean"] is None, "strict JSON has no NaN"
        assert policies["always take"]["fees"]["mean"] == pytest.approx(-policies["always take"]["pnl_fees"]["mean"])
        assert policies["always take"]["pnl_spread_paid"]["mean"] < 0 < policies["always take"]["fees"]["mean"]
    taking, waiting = (
        [result["queue_models"][m][p] for m in result["queue_models"]] for p in ("momentum", "market maker")
    )
    assert taking[0] == taking[1], "who only takes fares the same under both queue models"
    assert waiting[0]["contracts"]["mean"] <= waiting[1]["contracts"]["mean"]
    kept = result["retention"]["power"]
    assert set(kept) == {"agent", "greedy agent"}
    assert (
        kept["agent"]["seen"]
        == kept["agent"]["unseen"]
        == result["queue_models"]["power"]["agent"]["total_return"]["mean"]
    )
    spread = result["conditions"]["power"]["always take"]["spread"]
    assert sum(figures["share"] for figures in spread.values()) == pytest.approx(1)

    page = Path(result["report"]).read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert not re.search(r'(src|href)="(?!data:)', page), "the page needs nothing else"
    assert "SYNTHETIC DATA" in page
    assert "2 of the evaluated sessions were trained on" in page
    text = re.sub(r"base64,[^\"]*", "", page)
    assert "nan" not in text.lower().replace("finance", "")
    assert text.count("<table>") == text.count("</table>") == 6, (
        "side by side, parts, two conditions, all figures twice"
    )
    assert "No pace" in text, "this agent does not see the rhythm of the market"


def test_a_run_goes_on_after_its_end_if_it_is_made_longer(call, trained):
    result = json.loads(call("train", SOURCE, "--out", trained, "--resume", "--total-steps", 160, "--json", *SMALL))
    assert (result["steps"], result["finished"]) == (160, True)


def test_errors_are_one_line_and_exit_code_2(failure, trained, tmp_path):
    assert "nothing.jsonl" in failure("sessions", tmp_path / "nothing.jsonl")
    assert "no SOURCE" in failure("train")
    assert "no such market" in failure("book", SOURCE, "--market", "NOPE", "--at", START)
    assert "2026-05-13T14:30:00" in failure("book", SOURCE, "--market", "X", "--at", "teatime")
    assert "not a run" in failure("evaluate", tmp_path, SOURCE)
    assert "--resume" in failure("train", SOURCE, "--out", trained)
    line = failure("sessions", "postgresql://reader:hunter2@127.0.0.1:1/none")
    assert "cannot connect" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", SOURCE, "--num-envs", "10"], "multiple of minibatches"),
        (["demo", "--sessions", "1"], "needs at least 2"),
        (["sessions", SOURCE, "--status", "open"], "active"),
        (["sessions", SOURCE, "--sort", "size"], "volatility"),
        (["sessions", SOURCE, "--since", "tomorrow"], "expected 2026-05-13"),
        (["sessions", SOURCE, "--since", "2026-05-14", "--until", "2026-05-13"], "not before"),
        (["sessions", SOURCE, "--least-changes", "-1"], "0 or more"),
        (["build", SOURCE, "--out", "x", "--least-quality", "7"], "0 to 1"),
    ],
)
def test_settings_that_do_not_fit_are_explained(arguments, reason, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "demo", "sessions", "build", "book", "train", "evaluate", "export"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: kalshi-jax" in text
    if command:
        assert "--json" in text


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    """Kill -9 after the first checkpoint, resume, and compare with a run that was left alone."""
    settings = ["--total-steps", "3200", "--checkpoint-every", "10", "--evaluate-every", "1000", *SMALL]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}

    def start(name, *more):
        command = [sys.executable, "-c", "from agents.cli import main; main()", "train", SOURCE, *settings]
        arguments = [*command, "--out", str(tmp_path / name), *more]
        return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    killed = start("killed")
    deadline = time.monotonic() + 300
    while not any((tmp_path / "killed" / "checkpoints").glob("*/_CHECKPOINT_METADATA")):
        assert killed.poll() is None, killed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert '"update": 100,' not in (tmp_path / "killed" / "metrics.jsonl").read_text()
    for process in (start("killed", "--resume"), start("whole")):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    def figures(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "steps_per_second"} for line in lines]

    assert figures("killed") == figures("whole")


@pytest.mark.slow
def test_the_demo_runs_from_the_exchange_to_the_report(call, tmp_path):
    small = ["--sessions", "3", "--minutes", "3", "--total-steps", "60_000"]
    result = json.loads(call("demo", "--out", tmp_path / "demo", "--json", *small))
    assert Path(result["report"]).exists()
    assert result["policies"]["always take"]["total_return"]["mean"] < 0
    data = json.loads((tmp_path / "demo" / "config.json").read_text())["data"]
    assert (data["sessions"], data["synthetic"]) == (2, True)
    assert "no evaluated session was trained on" in Path(result["report"]).read_text()
