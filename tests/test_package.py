import subprocess
import sys

import pytest

import humanquery


def test_importing_the_package_does_not_import_torch():
    code = (
        "import humanquery, sys; "
        "print(humanquery.__version__, 'torch' in sys.modules, 'cv2' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [humanquery.__version__, "False", "False"]


def test_the_shipped_model_looks_at_a_picture_without_what_it_has_no_use_for():
    """Each of these takes from half a second to as long as PyTorch itself; the last is PyTorch's
    compiler, which torchvision and timm bring along."""
    idle = ("timm", "torchvision", "scipy", "hotcoco", "matplotlib", "pandas", "torch._dynamo")
    code = (
        "import sys, numpy, humanquery; "
        "humanquery.load().predict(numpy.full((64, 64, 3), 128, numpy.uint8), score=0.0); "
        f"print(sorted(set({idle!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_names_at_the_door_lead_to_their_homes():
    from humanquery.core.persons import Persons
    from humanquery.core.skeleton import Skeleton
    from humanquery.core.target import Target

    assert (humanquery.Persons, humanquery.Target, humanquery.Skeleton) == (
        Persons,
        Target,
        Skeleton,
    )
    assert {"load", "Persons"} <= set(humanquery.__all__) & set(dir(humanquery))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Person'"):
        _ = humanquery.Person
    assert not hasattr(humanquery, "nothing")
