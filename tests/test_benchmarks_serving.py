"""How benchmarks/serving.py counts."""

from collections import Counter

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from benchmarks.serving import MALFORMED, Seen, memory, summary, table
from tests.serve.stand_in import StandIn


def test_quantiles_are_of_answers_with_people_alone():
    found = summary(Seen(Counter({"200": 4, "503": 6}), [4.0, 1.0, 2.0, 3.0]), 2.0)
    assert found["statuses"] == {"200": 4, "503": 6}
    assert (found["per_second"], found["median_s"], found["p95_s"]) == (2.0, 2.5, 4.0)


def test_nobody_who_was_answered_is_a_dash():
    lines = table({"slow": summary(Seen(Counter({"408": 2})), 1.0)}, memory([10.0, 30.0, 20.0]))
    assert lines.splitlines()[1].split() == ["slow", "2", "x", "408", "-", "-", "-", "-"]
    assert "before 10, largest first half 10, largest second half 30" in lines


def test_every_nonsense_of_the_benchmark_is_refused():
    from fastapi.testclient import TestClient

    from humanquery.serve.app import create_app

    with TestClient(create_app(StandIn)) as client:
        for content, headers in MALFORMED:
            answer = client.post("/v1/picture", content=content, headers=headers)
            assert 400 <= answer.status_code < 500, content
