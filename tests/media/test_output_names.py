"""Nothing of a user's is lost: which names outputs get."""

import os

import pytest

from humanquery.core.errors import ConfigError
from humanquery.media.output_names import (
    MARKER,
    OutputFolder,
    OwnResults,
    output_file,
    read_marker,
)


def photo(path, text="photo"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_picture_gives_its_name_to_its_results(tmp_path):
    names = OutputFolder(tmp_path / "out", "predict", [tmp_path / "a.jpg"])
    assert names.numbered("a", (".json", ".jpg")) == tmp_path / "out" / "a"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_is_never_an_input_under_any_of_its_names(tmp_path, overwrite):
    source = photo(tmp_path / "a.jpg")
    os.link(source, tmp_path / "hard.jpg")
    os.symlink(source, tmp_path / "soft.jpg")
    names = OutputFolder(tmp_path, "predict", [source], overwrite=overwrite)
    assert (tmp_path / "A.JPG") in names._inputs
    for stem in ("a", "hard", "soft"):
        assert names.numbered(stem, (".json", ".jpg")).name == f"{stem}_2"
        with pytest.raises(ConfigError, match="is an input of this run"):
            names.fixed(f"{stem}.jpg")
    assert source.read_text() == "photo"


def test_a_file_of_the_user_is_replaced_only_where_that_is_asked_for(tmp_path):
    photo(tmp_path / "a.json")
    photo(tmp_path / "images.json")
    names = OutputFolder(tmp_path, "predict")
    assert names.numbered("a", (".json", ".jpg")).name == "a_2"
    with pytest.raises(ConfigError, match=r"images\.json: exists and is not ours; .*--overwrite"):
        names.fixed("images.json")
    bold = OutputFolder(tmp_path, "predict", overwrite=True)
    assert bold.numbered("a", (".json",)).name == "a"
    assert bold.fixed("images.json") == tmp_path / "images.json"


def test_the_same_verb_writes_its_results_again_and_another_does_not(tmp_path):
    for _ in range(2):
        names = OutputFolder(tmp_path, "predict")
        photo(names.fixed("coco_results.json"))
        photo(names.numbered("a", (".json",)).with_suffix(".json"))
    assert sorted(os.listdir(tmp_path)) == [MARKER, "a.json", "coco_results.json"]
    assert read_marker(tmp_path) == {"a.json": "predict", "coco_results.json": "predict"}
    with pytest.raises(ConfigError, match="was written by `humanquery predict`"):
        OutputFolder(tmp_path, "track").fixed("coco_results.json")


def test_reserved_names_and_names_already_given_get_a_number(tmp_path):
    names = OutputFolder(tmp_path, "predict", reserved=["images.json"])
    assert names.numbered("images", (".json", ".jpg")).name == "images_2"
    assert names.numbered("Images", (".json", ".jpg")).name == "Images_3"
    assert names.numbered("b", (".json",)).name == "b"
    assert names.numbered("B", (".json",)).name == "B_2"


def test_results_are_known_by_the_marker_beside_them_or_above(tmp_path):
    names = OutputFolder(tmp_path, "predict")
    names.numbered("a", (".jpg",))
    names.numbered("clip", ("",))
    own = OwnResults()
    assert tmp_path / "a.jpg" in own and tmp_path / "clip" / "frame.jpg" in own
    assert tmp_path / "mine.jpg" not in own


def test_a_marker_that_a_crash_cut_off_loses_no_later_entry(tmp_path):
    OutputFolder(tmp_path, "predict").fixed("one.json")
    with open(tmp_path / MARKER, "a") as file:
        file.write('{"humanquery": "0.1", "ve')
    OutputFolder(tmp_path, "predict").fixed("two.json")
    assert read_marker(tmp_path) == {"one.json": "predict", "two.json": "predict"}


def test_a_file_that_the_user_named_follows_the_same_rules(tmp_path):
    source = photo(tmp_path / "photo.png")
    with pytest.raises(ConfigError, match="is an input"):
        output_file(source, "attend", [source], overwrite=True)
    with pytest.raises(ConfigError, match="exists and is not ours"):
        output_file(photo(tmp_path / "other.png"), "attend", [source])
    with pytest.raises(ConfigError, match="is a folder; expected the name of a file"):
        output_file(tmp_path, "attend", [source])
    for _ in range(2):
        photo(output_file(tmp_path / "new" / "look.png", "attend", [source]))


def test_a_folder_that_is_a_file_or_cannot_be_made_is_named(tmp_path):
    photo(tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match=r"a\.jpg is a file; expected a folder"):
        OutputFolder(tmp_path / "a.jpg" / "out", "predict")
