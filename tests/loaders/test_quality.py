"""The score of a session and its marks follow from what was found in it."""

from dataclasses import asdict, replace

import pytest
from exchange_frames import START, delta, snapshot, write
from hypothesis import given
from hypothesis import strategies as st

from loaders import SessionDataLoader
from loaders.closes import AFTER_CLOSE
from loaders.events import Report
from loaders.quality import marks_of, quality_of
from loaders.statistics import SessionStatistics

SOUND = Report(rows_read=10_000, snapshots=1, deltas=9_999)
BUSY = SessionStatistics(activity=0.3, quoted_share=0.9)


def test_parts_by_hand():
    quality = quality_of(SOUND, BUSY, 900)
    assert asdict(quality) == pytest.approx(
        {"completeness": 1, "consistency": 1, "coverage": 0.9, "activity": 0.75, "duration": 0.75}
    )
    assert quality.score == pytest.approx(0.8)
    worse = replace(
        SOUND, sequence_gaps=1, dropped={"x": 500, "y": 500}, crossed_after=20, negative_sizes=10, times_repaired=20
    )
    parts = quality_of(worse, BUSY, 900)
    assert (parts.completeness, parts.consistency) == pytest.approx((0.9 / 2, 0.5))
    assert parts.score == pytest.approx(0.8 * 0.45 * 0.5)
    closed = replace(SOUND, dropped={AFTER_CLOSE: 3000})
    assert quality_of(closed, BUSY, 900) == quality, "what came after a market's close is no loss"


faults = st.sampled_from(
    ["sequence_gaps", "crossed_after", "negative_sizes", "times_repaired", "levels_repaired", "snapshots_repaired"]
)


@given(faults, st.integers(0, 30), st.integers(1, 30))
def test_every_fault_lowers_the_score_and_none_leaves_the_range(fault, some, more):
    before = quality_of(replace(SOUND, **{fault: some}), BUSY, 900).score
    after = quality_of(replace(SOUND, **{fault: some + more}), BUSY, 900).score
    assert 0 <= after < before <= 1


@given(
    st.builds(
        Report,
        rows_read=st.integers(0, 50),
        deltas=st.integers(0, 50),
        sequence_gaps=st.integers(0, 50),
        crossed_after=st.integers(0, 50),
        dropped=st.dictionaries(st.sampled_from("ab"), st.integers(0, 100)),
    ),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.floats(0, 1e9),
)
def test_parts_are_between_0_and_1(report, activity, quoted, seconds):
    quality = quality_of(report, SessionStatistics(activity=activity, quoted_share=quoted), seconds)
    assert all(0 <= part <= 1 for part in (*asdict(quality).values(), quality.score))


@pytest.mark.parametrize(
    ("case", "marks"),
    [
        ((5, 1, "production", False), []),
        ((0, 0, "", False), ["empty", "no book"]),
        ((0, 1, "", False), ["empty"]),
        ((5, 0, "", False), ["no book"]),
        ((5, 1, "test", False), ["test"]),
        ((5, 1, "test", True), ["synthetic"]),  # the demo's own: it says what it is
    ],
)
def test_marks_and_their_reasons(case, marks):
    found = marks_of(*case)
    assert list(found) == marks
    assert all(len(reason) > 10 for reason in found.values())


def test_a_recording_with_a_gap_scores_less_than_a_whole_one(tmp_path):
    def frames(missing):
        yield snapshot("A", 1, [(40, 5)], [(58, 1)])
        for n in range(1, 20):
            yield delta("A", 1 + n + (missing and n > 15), "yes", 40, 1, START + 1000 * n)

    whole, broken = (
        SessionDataLoader(write(tmp_path / f"{missing}.jsonl", frames(missing))).catalogue()[0] for missing in (0, 1)
    )
    assert (whole.quality.completeness, whole.quality.consistency) == (1, 1)
    assert broken.report.sequence_gaps == 1
    assert broken.quality.completeness < 0.8
    assert broken.quality.score < whole.quality.score
    assert not whole.marks
