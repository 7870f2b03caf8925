"""See `host_waits`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def counted() -> dict:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.host_waits"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kind_of_wait_is_counted(counted):
    assert counted["known"] == {
        "item": 1,
        "nonzero": 1,
        "index by flags": 1,
        "blocking copy to the device": 3,
        "to the host": 2,
        "tensors of two devices": 1,
    }


def test_nothing_mixes_tensors_of_the_host_with_those_of_the_device(counted):
    """In a training step and where a model on a device is scored on pictures of the host."""
    everything = counted["step"] + counted["look"] + counted["prediction"]
    assert counted["prediction"] and not [
        wait for wait in everything if wait.startswith("tensors of two devices")
    ]


def test_the_first_look_of_a_prediction_asks_nothing_of_the_host(counted):
    assert counted["look"] == []


def test_a_training_step_waits_twice_for_the_assignment_and_for_whether_to_step(counted):
    where = [wait.split(" | ")[1].split(":")[0] for wait in counted["step"]]
    assert where == ["models/hqnet/criterion.py", "engine/distributed.py"], "\n".join(
        counted["step"]
    )
