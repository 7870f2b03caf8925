"""How benchmarks/memory.py samples, on made-up sizes."""

import pytest

from benchmarks.memory import NotedTrim, measured, pictures, slope, summary, table


class Process:
    """A made-up one that grows by `keeps` MB a picture and by 10 more, which a trim takes back."""

    def __init__(self, keeps: float, every: int = 4, trims: bool = True):
        self.megabytes, self.keeps, self.every, self.count = 1000.0, keeps, every, 0
        self.freed = 0.0
        self.noted = NotedTrim(self.trim if trims else None, lambda: self.megabytes + self.freed)

    def trim(self, pad: int) -> None:
        self.freed = 0.0

    def predict(self, picture) -> None:
        self.count += 1
        self.megabytes += self.keeps
        self.freed += 10
        if self.count % self.every == 0:
            self.noted(0)


def rows_of(process: Process, count: int = 40):
    return measured(process.predict, process.noted, iter(range(count)), show=lambda line: None)


def test_a_row_stands_before_and_after_each_trim():
    rows = rows_of(Process(keeps=0.0), 10)
    assert [row["pictures"] for row in rows] == [4, 8]
    assert [row["before_mb"] for row in rows] == [1040, 1040]
    assert [row["after_mb"] for row in rows] == [1000, 1000]
    assert [row["peak_mb"] for row in rows] == [1040, 1040]


def test_the_peak_is_that_of_its_own_interval():
    process = Process(keeps=0.0)
    look = process.predict

    def predict(picture) -> None:
        look(picture)
        if process.count == 2:
            process.freed = 500.0
        if process.count == 3:
            process.freed = 0.0

    rows = measured(predict, process.noted, iter(range(8)), show=lambda line: None)
    assert [row["peak_mb"] for row in rows] == [1500, 1040]


def test_flat_memory_has_no_slope_however_high_the_teeth_are():
    found = summary(rows_of(Process(keeps=0.0)))
    assert [found[name]["slope"] for name in found] == [0.0, 0.0, 0.0]


def test_a_leak_shows_in_every_series_in_mb_per_thousand_pictures():
    found = summary(rows_of(Process(keeps=0.5)))
    assert [found[name]["slope"] for name in found] == pytest.approx([500.0] * 3)


def test_without_trims_both_sizes_are_the_same_and_grow_with_what_is_freed():
    rows = rows_of(Process(keeps=0.0, trims=False))
    assert all(row["before_mb"] == row["after_mb"] for row in rows)
    assert summary(rows)["after_mb"]["slope"] == pytest.approx(10_000.0)


def test_the_slope_is_of_the_second_half_alone():
    counts = list(range(100, 900, 100))
    assert slope(counts, [0, 50, 70, 80, 100, 101, 102, 103]) == pytest.approx(10.0)
    assert slope(counts, [0, 50, 70, 80, 100, 104, 96, 100]) == pytest.approx(-8.0)
    assert slope([], []) is None and slope([100], [5.0]) is None
    assert slope([100, 200], [5.0, 6.0]) is None


def test_the_table_shows_a_dash_for_too_short_a_run():
    lines = table(summary(rows_of(Process(keeps=0.0), 4))).splitlines()
    assert lines[2].split() == ["before", "1040", "1040", "-"]
    assert "-" in table(summary([]))


def test_pictures_have_sizes_of_their_own():
    assert len({picture.shape for picture in pictures(2)}) == 2
