"""Schedules start where they say, end exactly where they say, and never fall."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwood._internal.core.schedules import Cubic, Geometric, Linear, OneShot, Schedule, Steps
from boxwood._internal.core.spec import decode, encode
from boxwood.errors import BoxwoodError

FINALS = st.floats(0, 1, exclude_max=True)


@st.composite
def windowed(draw: st.DrawFn) -> Schedule:
    """Draw a schedule with a beginning and an end."""
    begin, every = draw(st.integers(0, 20)), draw(st.integers(1, 5))
    end = begin + every * draw(st.integers(1, 10))
    final = draw(FINALS)
    initial = draw(st.floats(0, final))
    return draw(
        st.sampled_from(
            [
                Geometric(final=final, begin=begin, end=end),
                Linear(final=final, begin=begin, end=end, initial=initial),
                Cubic(final=final, begin=begin, end=end, initial=initial, every=every),
            ]
        )
    )


@given(windowed())
def test_boundaries(schedule: Schedule) -> None:
    """Its first value until it begins, and exactly its final value from its end on."""
    initial = getattr(schedule, "initial", 0.0)
    for step in range(schedule.begin + 1):
        assert schedule(step) == pytest.approx(initial, abs=1e-15)
    for step in (schedule.end, schedule.end + 1, schedule.end + 1000):
        assert schedule(step) == schedule.final


@given(windowed())
def test_monotone(schedule: Schedule) -> None:
    """Never falling, up to the rounding of one operation, and never outside [0, 1)."""
    values = [schedule(step) for step in range(schedule.end + 2)]
    assert all(b >= a - 1e-15 for a, b in itertools.pairwise(values))
    assert all(0 <= value < 1 for value in values)


@given(windowed())
def test_round_trip(schedule: Schedule) -> None:
    """A schedule is data: written down and read again it is the same."""
    assert decode(encode(schedule)) == schedule


@given(FINALS, st.integers(1, 20))
def test_geometric_prunes_the_same_fraction_of_the_survivors(final: float, rounds: int) -> None:
    """The ratio of survivors from round to round is constant."""
    schedule = Geometric(final=final, end=rounds)
    left = [1 - schedule(step) for step in range(rounds + 1)]
    ratio = (1 - final) ** (1 / rounds)
    for before, after in itertools.pairwise(left):
        assert after == pytest.approx(before * ratio, rel=1e-9, abs=1e-12)


def test_cubic_holds_between_updates() -> None:
    """With ``every=10`` the sparsity changes at 0, 10, 20, … only; values of equation 1 by hand."""
    schedule = Cubic(final=0.8, end=40, every=10)
    assert [schedule(step) for step in (0, 9, 10, 19)] == [
        schedule(0),
        schedule(0),
        schedule(10),
        schedule(10),
    ]
    assert schedule(10) == pytest.approx(0.8 * (1 - 27 / 64), rel=1e-12)
    assert schedule(20) == pytest.approx(0.8 * 7 / 8, rel=1e-12)


def test_tables() -> None:
    """A row holds until the next; one shot is a table of one row."""
    assert [Steps(((2, 0.5), (4, 0.9)))(step) for step in range(6)] == [0, 0, 0.5, 0.5, 0.9, 0.9]
    shot = OneShot(final=0.7, at=3)
    assert all(shot(step) == Steps(((3, 0.7),))(step) for step in range(6))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OneShot(final=1.0), r"final sparsity in \[0, 1\), got 1\.0; give the fraction"),
        (
            lambda: Linear(final=0.5, end=2, initial=-0.1),
            r"initial sparsity in \[0, 1\), got -0\.1",
        ),
        (lambda: Geometric(final=float("nan"), end=2), r"final sparsity in \[0, 1\), got nan"),
        (lambda: Geometric(final=0.5, end=3, begin=3), "begin < end, got begin=3, end=3; widen"),
        (lambda: Cubic(final=0.5, end=10, every=3), "divides the window of 10 steps, got 3"),
        (lambda: Cubic(final=0.5, end=10, every=0), "divides the window of 10 steps, got 0"),
        (lambda: Steps(()), r"rows of rising steps .* got \(\); sort them"),
        (lambda: Steps(((1, 0.5), (1, 0.6))), "rows of rising steps and never falling sparsity"),
        (lambda: Steps(((1, 0.5), (2, 0.4))), "rows of rising steps and never falling sparsity"),
        (lambda: Steps(((1, 50.0),)), r"sparsity of a row in \[0, 1\), got 50\.0"),
    ],
)
def test_refusals(make: Callable[[], Schedule], words: str) -> None:
    """A schedule that cannot be meant is refused when it is made."""
    with pytest.raises(BoxwoodError, match=words):
        make()
