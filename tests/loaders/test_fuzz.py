"""Broken inputs are refused with a reason, or used with a report; nothing crashes and no row is lost in silence."""

import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from tests.loaders.mutations import sound_recordings, sound_rows
from tests.loaders.verdicts import DATABASE, METADATA, RECORDING, Fuzzer, check_recording, check_rows

INPUTS = {RECORDING: 150, DATABASE: 100, METADATA: 150}


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    return Fuzzer(tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("kind", INPUTS)
def test_every_broken_input_is_refused_or_accounted_for(fuzzer, kind):
    outcomes = [fuzzer.feed(kind, seed) for seed in range(INPUTS[kind])]
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert kinds["refused"] > 0, "the accidents are serious"
    assert kinds["used"] + kinds["used with reports"] > 50, "the accidents are small"
    reasons = Counter(reason for outcome in outcomes for reason in outcome.reasons)
    assert len(reasons) > 5, f"the accidents differ: {reasons}"


def test_sound_inputs_need_no_report(tmp_path):
    for number, lines in enumerate(sound_recordings()):
        outcome = check_recording(Random(0), b"\n".join(lines), tmp_path / f"{number}.jsonl")
        assert (outcome.kind, outcome.reasons) == ("used", {})
    outcome = check_rows(sound_rows())
    assert (outcome.kind, outcome.reasons) == ("used", {})


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\x1f\x8b\x08", b"{", b"\n"]))
def test_any_bytes_at_all_are_refused_or_accounted_for(tmp_path_factory, data, prefix):
    check_recording(Random(len(data)), prefix + data, tmp_path_factory.mktemp("bytes") / "any.jsonl.gz")


def test_the_benchmark_counts_every_input_and_shows_a_defect_with_its_seed(monkeypatch, capsys):
    feed = Fuzzer.feed

    def feed_or_crash(self, kind, seed):
        if seed == 7:
            raise IndexError("crash of seed 7")
        return feed(self, kind, seed)

    monkeypatch.setattr(Fuzzer, "feed", feed_or_crash)
    report = fuzz.run(fuzz.Config(inputs=20, seed=5))
    assert {row["input"]: row["inputs"] for row in report["rows"]} == {RECORDING: 12, DATABASE: 7, METADATA: 1}
    (defect,) = report["defects"]
    assert (defect["seed"], defect["input"]) == (7, RECORDING)
    fuzz.print_tables(report)
    assert "IndexError: crash of seed 7" in capsys.readouterr().out
    json.dumps(report, allow_nan=False)
