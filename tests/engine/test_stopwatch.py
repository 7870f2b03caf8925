import time
from types import SimpleNamespace

import torch

from humanquery.engine.stopwatch import Seconds, Stopwatch


def test_a_part_inside_of_another_counts_for_itself_only_and_all_sum_to_the_whole():
    watch = Stopwatch(torch.device("cpu"))
    begun = time.perf_counter()
    watch.start()
    with watch.part("outer"):
        time.sleep(0.02)
        with watch.part("inner"):
            time.sleep(0.05)
    time.sleep(0.01)
    watch.stop()
    whole = time.perf_counter() - begun
    found = watch.total()
    assert list(found) == ["rest", "outer", "inner"]
    assert (
        found["outer"].wall >= 0.02 and found["inner"].wall >= 0.05 and found["rest"].wall >= 0.01
    )
    assert sum(found.values(), Seconds()).wall <= whole
    assert found["inner"].busy < found["inner"].wall


def test_nothing_counts_before_the_start_or_between_stop_and_start():
    watch = Stopwatch(torch.device("cpu"))
    with watch.part("early"):
        pass
    watch.start()
    watch.stop()
    time.sleep(0.05)
    watch.start()
    watch.stop()
    found = watch.total()
    assert "early" not in found and sum(found.values(), Seconds()).wall < 0.05


def test_calls_are_timed_by_name_until_that_is_undone():
    watch, owner = Stopwatch(torch.device("cpu")), SimpleNamespace(act=lambda x: x + 1)
    before = owner.act
    undo = watch.around(owner, "act", "acting")
    watch.start()
    assert owner.act(1) == 2
    watch.stop()
    undo()
    assert "acting" in watch.total() and owner.act is before


def test_a_module_loses_its_timer_too():
    watch, module = Stopwatch(torch.device("cpu")), torch.nn.Identity()
    undo = watch.around(module, "forward", "identity")
    watch.start()
    module(torch.zeros(1))
    watch.stop()
    undo()
    assert "identity" in watch.total() and "forward" not in vars(module)
