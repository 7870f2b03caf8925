import pytest

from humanquery.core import errors
from humanquery.core.errors import HumanQueryError, nearest


def test_the_nearest_name_is_offered_and_all_are_listed():
    assert (
        nearest("keypoint", ["box", "keypoints"])
        == " Did you mean 'keypoints'? Known: box, keypoints."
    )
    assert nearest("xyz", ["box"]) == " Known: box."
    assert nearest("xyz", []) == " Known: none."


def test_every_error_for_people_is_one_family():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(kinds) >= 6
    for kind in kinds:
        with pytest.raises(HumanQueryError):
            raise kind("message")
