"""Stages: order, back-pressure, errors, a clean end, flat memory."""

import threading
import time

import pytest

from humanquery.predict.pipeline import Pipeline, Sink, one_ahead


def double(x: int) -> int:
    return 2 * x


def test_results_come_in_order_through_all_stages():
    stages = [("double", double), ("text", str)]
    assert list(Pipeline(range(50), stages)) == [str(2 * i) for i in range(50)]
    assert list(Pipeline([], stages)) == [] and list(Pipeline(range(3), [])) == [0, 1, 2]


def test_nobody_works_far_ahead_of_a_slow_consumer():
    made = []

    def source():
        for i in range(10_000):
            made.append(i)
            yield i

    results = iter(Pipeline(source(), [("double", double), ("again", double)], capacity=2))
    for i in range(5):
        assert next(results) == 4 * i
        time.sleep(0.01)
    # the consumer's, three queues of two, and one in the hands of each thread
    assert len(made) <= 5 + 3 * 2 + 3 + 1
    results.close()
    assert len(made) < 20


def test_ten_thousand_items_keep_few_alive():
    alive, most, lock = 0, 0, threading.Lock()

    class Item:
        def __init__(self):
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)

        def __del__(self):
            nonlocal alive
            with lock:
                alive -= 1

    stages = [("keep", lambda item: item)] * 2
    assert sum(1 for _ in Pipeline((Item() for _ in range(10_000)), stages)) == 10_000
    assert most < 40


@pytest.mark.parametrize("where", ["source", "first", "second"])
def test_an_error_comes_to_the_consumer_in_its_items_place(where):
    def fail_at(name):
        def work(i: int) -> int:
            if where == name and i == 3:
                raise KeyError("item 3")
            return i

        return work

    source = (fail_at("source")(i) for i in range(9))
    stages = [(name, fail_at(name)) for name in ("first", "second")]
    got = []
    with pytest.raises(KeyError, match="item 3") as problem:
        for result in Pipeline(source, stages):
            got.append(result)
    assert got == [0, 1, 2]
    if where != "source":
        assert problem.value.__notes__ == [f"in the stage {where!r}"]


def test_leaving_early_ends_all_threads_and_closes_the_source():
    closed, before = [], threading.active_count()

    def source():
        try:
            yield from range(10_000)
        finally:
            closed.append(True)

    for result in Pipeline(source(), [("double", double)]):
        if result == 8:
            break
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before and closed == [True]


def test_a_sink_takes_everything_and_hands_its_problem_to_who_puts():
    taken = []
    with Sink("take", taken.extend, capacity=2) as sink:
        for i in range(100):
            sink.put(i)
    assert taken == list(range(100)) and sink.whole

    def fail(items):
        for item in items:
            raise OSError(f"disk full at {item}")

    with pytest.raises(OSError, match="disk full at 0"):
        with Sink("fail", fail, capacity=2) as sink:
            for i in range(100):
                sink.put(i)
    assert not sink.whole


def test_the_next_group_is_worked_on_while_the_caller_has_one():
    begun = threading.Event()

    def work(group):
        if group[0] == 2:
            begun.set()
        return [double(x) for x in group]

    groups = one_ahead(work, iter(range(5)), 2)
    assert next(groups) == [0, 2] and begun.wait(5)
    assert list(groups) == [[4, 6], [8]]
    assert list(one_ahead(work, iter([]), 2)) == []


def test_what_was_worked_on_before_an_error_is_given_first():
    def reading():
        yield from range(3)
        raise OSError("gone")

    def work(group):
        if 2 in group:
            raise ValueError("two")
        return group

    groups = one_ahead(list, reading(), 1)
    assert [next(groups) for _ in range(3)] == [[0], [1], [2]]
    with pytest.raises(OSError, match="gone"):
        next(groups)
    groups = one_ahead(work, iter(range(5)), 1)
    assert [next(groups), next(groups)] == [[0], [1]]
    with pytest.raises(ValueError, match="two"):
        next(groups)


def test_a_caller_who_stops_leaves_no_thread():
    groups = one_ahead(list, iter(range(100)), 1)
    next(groups)
    groups.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("one ahead")]
