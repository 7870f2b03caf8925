"""Readers of the tasks of HumanBench, on tiny files in the real formats and on the real ones."""

import json

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.data.loading.identity import source_identity
from humanquery.data.readers.counting import CountingConfig
from humanquery.data.readers.crowdhuman import CrowdHumanConfig
from humanquery.data.readers.identities import IdentityConfig
from humanquery.data.readers.parsing import IGNORED, PARSING, ParsingConfig
from humanquery.data.readers.pedestrian_attributes import (
    PETA_35,
    Pa100kConfig,
    PetaAttributesConfig,
)
from humanquery.data.readers.sources import SourceConfig
from humanquery.media.images import write_image
from tests.paths import DATA, needs_data


def pictures(folder, *names, size=(8, 4)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.full((*size, 3), 90, np.uint8))
    return str(folder)


# ------------------------------------------------------------------ identities


def test_names_of_market_1501_say_who_and_where(tmp_path):
    folder = pictures(
        tmp_path, "0002_c1s1_000451_03.png", "-1_c3s1_01.png", "0000_c2s1_01.png", "0007_c6s3_9.png"
    )
    source = IdentityConfig(folder, name="market").build()
    assert source.identities == [-1, 0, 2, 7] and source.cameras == [3, 2, 1, 6]
    target = source[3].target
    assert target.track_ids.tolist() == [7] and target.source == "market"
    assert target.get("camera").tolist() == [6]
    classes = [source[i].target.get("person_class").item() for i in range(4)]
    assert classes == [-1, -1, 0, 1]  # junk and distractors have none


@pytest.mark.parametrize(
    ("names", "file", "who"),
    [
        ("msmt", "0003/0003_000_05_0303morning_0008_0.png", (3, 5)),
        ("sensereid", "00012_1.png", (12, 1)),
        ("folders", "017/02_5.png", (17, 2)),
        ("market", "0042_c2_7.png", (42, 2)),
    ],
)
def test_dialects_of_names(tmp_path, names, file, who):
    source = IdentityConfig(pictures(tmp_path, file), names).build()
    assert (source.identities[0], source.cameras[0]) == who


def test_a_list_chooses_pictures(tmp_path):
    folder = pictures(tmp_path / "train", "0001/0001_000_02_a_0.png", "0002/0002_000_03_a_0.png")
    (tmp_path / "list.txt").write_text("0002/0002_000_03_a_0.png 1\n")
    listed = str(tmp_path / "list.txt")
    assert IdentityConfig(folder, "msmt", listed=listed).build().identities == [2]
    (tmp_path / "list.txt").write_text("0009/nobody.png 1\n")
    with pytest.raises(AnnotationError, match="1 of 1 files are not in .*nobody.png"):
        IdentityConfig(folder, "msmt", listed=listed).build()


def test_a_name_that_says_nothing_is_told_with_an_example(tmp_path):
    with pytest.raises(AnnotationError, match=r"'holiday.png' does not say who.*0002_c1s1_000451"):
        IdentityConfig(pictures(tmp_path, "holiday.png")).build()


def test_an_empty_folder_and_an_unknown_camera_are_told(tmp_path):
    with pytest.raises(AnnotationError, match="holds no picture"):
        IdentityConfig(str(tmp_path)).build()
    folder = pictures(tmp_path, "0002_c1s1_0.png")
    with pytest.raises(AnnotationError, match=r"no picture of cameras \(9,\); there are \[1\]"):
        IdentityConfig(folder, cameras=(9,)).build()


@needs_data
def test_the_real_crops_have_two_cameras_and_eight_views_of_everybody():
    train = IdentityConfig(str(DATA / "reid/data/train"), "folders").build()
    val = IdentityConfig(str(DATA / "reid/data/val/all_imgs"), "folders", cameras=(1,)).build()
    assert len(train) == 16 * len(train.people) and len(val) == 8 * len(val.people)
    assert len(train.people) + len(val.people) == 74
    assert not set(train.people) & set(val.people)


# ------------------------------------------------------------------ attributes


def peta(tmp_path, **fields):
    row = {
        "file": "a.png", "split": "train", "gender": 0, "age_range": [16, 30],
        "attributes": ["accessoryHat", "hairLong"],
    }  # fmt: skip
    (tmp_path / "peta.json").write_text(json.dumps([row | fields]))
    pictures(tmp_path / "images", "a.png")
    return str(tmp_path)


def test_attributes_of_peta_are_yes_no_or_unknown(tmp_path):
    source = PetaAttributesConfig(peta(tmp_path)).build()
    labels = dict(zip(source.names, source[0].target.get("attributes")[0].tolist(), strict=True))
    assert [name for name, label in labels.items() if label == 1] == [
        "accessoryHat", "hairLong", "personalLess30", "personalMale",
    ]  # fmt: skip
    unknown = PetaAttributesConfig(peta(tmp_path, gender=None, age_range=[])).build()
    assert (unknown.labels == -1).sum() == 5
    assert unknown.positive_share[unknown.names.index("personalMale")] == 0


def test_attributes_that_are_no_list_are_named(tmp_path):
    with pytest.raises(AnnotationError, match="peta.json: crop 0: 'attributes' is 'hat'"):
        PetaAttributesConfig(peta(tmp_path, attributes="hat")).build()


def test_a_split_without_crops_is_told(tmp_path):
    with pytest.raises(AnnotationError, match="no crop of this split"):
        PetaAttributesConfig(peta(tmp_path), "val").build()


def pa100k(tmp_path, labels):
    cells = np.array([["Female"], ["Hat"]], dtype=object)
    files = np.array([["1.png"], ["2.png"]], dtype=object)
    content = {"attributes": cells, "test_images_name": files, "test_label": np.array(labels)}
    scipy.io.savemat(tmp_path / "annotation.mat", content)
    pictures(tmp_path / "data", "1.png", "2.png")
    return Pa100kConfig(str(tmp_path / "annotation.mat"), str(tmp_path / "data"), "test")


def test_pa_100k_is_read_from_its_matlab_file(tmp_path):
    source = pa100k(tmp_path, [[1, 0], [0, 0]]).build()
    assert source.names == ("Female", "Hat") and source.positive_share == (0.5, 0.0)
    assert source[0].target.get("attributes").tolist() == [[1, 0]]


def test_a_matlab_file_of_something_else_says_what_it_lacks(tmp_path):
    config = pa100k(tmp_path, [[1, 0], [0, 0]])
    with pytest.raises(AnnotationError, match="has no train_images_name, train_label"):
        Pa100kConfig(config.annotations, config.images, "train").build()
    with pytest.raises(AnnotationError, match=r"test_label is \(1, 2\), expected 2 pictures × 2"):
        pa100k(tmp_path, [[1, 0]]).build()
    (tmp_path / "annotation.mat").write_text("no")
    with pytest.raises(AnnotationError, match="not a readable MATLAB file"):
        config.build()


@needs_data
def test_the_real_crops_have_the_35_attributes():
    source = PetaAttributesConfig(str(DATA / "peta"), "val").build()
    assert len(source) == 1098 and source.names == tuple(PETA_35)
    assert all(0 < share < 1 for share in source.positive_share)


# --------------------------------------------------------------------- parsing


def parsed(tmp_path, labels, mode="L", **options):
    folder = pictures(tmp_path / "images", "7.png", size=np.array(labels).shape)
    (tmp_path / "labels").mkdir(exist_ok=True)
    Image.fromarray(np.array(labels, np.uint8), "L").convert(mode).save(tmp_path / "labels/7.png")
    return ParsingConfig(folder, str(tmp_path / "labels"), **options)


def test_label_maps_are_classes_of_the_picture(tmp_path):
    (tmp_path / "id.txt").write_text("7\n")
    config = parsed(tmp_path, [[0, 14], [15, IGNORED]], listed=str(tmp_path / "id.txt"))
    target = config.build()[0].target
    assert target.maps[PARSING].values.tolist() == [[0, 14], [15, 255]] and len(target) == 0
    mirrored = target.mirror().maps[PARSING].values
    assert mirrored.tolist() == [[15, 0], [255, 14]]  # left and right arm have changed places


def test_labels_that_cannot_be_meant_are_told(tmp_path):
    with pytest.raises(AnnotationError, match="class 33, expected 0 to 19 or 255"):
        parsed(tmp_path, [[33]]).build()[0]
    with pytest.raises(AnnotationError, match="colours, expected class numbers"):
        parsed(tmp_path, [[3]], "RGB").build()[0]
    config = parsed(tmp_path, [[3]])
    pictures(tmp_path / "images", "7.png", size=(2, 5))
    with pytest.raises(AnnotationError, match=r"\(1, 1\) px, expected .*\(2, 5\) px"):
        config.build()[0]


def test_a_missing_label_picture_or_class_list_is_told(tmp_path):
    (tmp_path / "id.txt").write_text("7 8\n")
    config = parsed(tmp_path, [[0]], listed=str(tmp_path / "id.txt"))
    with pytest.raises(AnnotationError, match="no picture called 8"):
        config.build()
    pictures(tmp_path / "images", "8.png")
    with pytest.raises(AnnotationError, match="1 of 2 label files are missing, the first 8.png"):
        config.build()
    with pytest.raises(ConfigError, match="no classes 'lip'. Did you mean 'lip20'"):
        parsed(tmp_path, [[0]], classes="lip").build()


@needs_data
def test_the_real_label_maps_are_read():
    root = DATA / "parsing_cihp/datasets/CIHP"
    cihp = ParsingConfig(str(root / "images"), str(root / "labels"), str(root / "list/val_id.txt"))
    assert len(cihp.build()) == 5
    # the data set brings its labels mirrored as well, left and right swapped
    swapped = ParsingConfig(cihp.images, str(root / "labels_rev"), cihp.listed).build()[0].target
    mirrored = cihp.build()[0].target.mirror().maps[PARSING].values
    assert torch.equal(mirrored, swapped.maps[PARSING].values)
    folder = DATA / "parsing"
    listed = str(folder / "parsing.json")
    clothes = ParsingConfig(str(folder / "images"), str(folder / "labels"), listed, "val").build()
    assert len(clothes.labels.classes) == 59 and clothes[0].target.maps[PARSING].values.max() < 59


# -------------------------------------------------------------------- counting


def shanghai(tmp_path, points):
    pictures(tmp_path / "images", "IMG_1.png", size=(20, 30))
    (tmp_path / "ground-truth").mkdir(exist_ok=True)
    inner = np.empty((1, 1), dtype=object)
    inner[0, 0] = np.array(
        [(np.array(points), 2)], dtype=[("location", object), ("number", object)]
    )
    scipy.io.savemat(tmp_path / "ground-truth/GT_IMG_1.mat", {"image_info": inner})
    return CountingConfig(str(tmp_path))


def test_every_point_is_a_head(tmp_path):
    target = shanghai(tmp_path, [[5.0, 6.0], [20.0, 3.0]]).build()[0].target
    assert target.boxes.tolist() == [[4, 5, 6, 7], [19, 2, 21, 4]] and target.source == "counting"


def test_a_picture_without_points_is_told(tmp_path):
    config = shanghai(tmp_path, [[5.0, 6.0]])
    pictures(tmp_path / "images", "IMG_2.png")
    with pytest.raises(AnnotationError, match="1 of 2 point files are missing.*GT_IMG_2.mat"):
        config.build()
    scipy.io.savemat(tmp_path / "ground-truth/GT_IMG_2.mat", {"other": 1})
    with pytest.raises(AnnotationError, match="GT_IMG_2.mat: no 'image_info' with points"):
        config.build()


@needs_data
def test_the_real_points_are_read():
    five = CountingConfig(str(DATA / "counting/crowd_shanghaitechA_5")).build()
    assert len(five) == 5 and all(len(heads) > 30 for heads in five.heads)


# ------------------------------------------------------------------ crowdhuman


def odgt(tmp_path, *people, name="1,a"):
    line = json.dumps({"ID": name, "gtboxes": list(people)})
    (tmp_path / "train.odgt").write_text(line + "\n")
    pictures(tmp_path / "Images", "1,a.jpg", size=(40, 30))
    return CrowdHumanConfig(str(tmp_path / "train.odgt"), str(tmp_path / "Images"))


def person(fbox, tag="person", **extra):
    return {"tag": tag, "fbox": fbox, "vbox": [1, 1, 2, 2], "hbox": [0, 0, 1, 1], "extra": extra}


def test_full_boxes_are_clipped_and_masks_are_ignore_regions(tmp_path):
    config = odgt(
        tmp_path,
        person([-5, 2, 15, 50]),
        person([1, 1, 4, 4], tag="mask"),
        person([2, 2, 4, 4], ignore=1),
    )
    target = config.build()[0].target
    assert target.boxes[0].tolist() == [0, 2, 10, 40]
    assert target.ignore.tolist() == [False, True, True] and target.source == "crowdhuman"
    visible = CrowdHumanConfig(config.annotations, config.images, "vbox").build()[0].target
    assert visible.boxes[0].tolist() == [1, 1, 3, 3]


def test_a_picture_with_nobody_is_read(tmp_path):
    assert len(odgt(tmp_path).build()[0].target) == 0


def test_a_broken_line_is_named(tmp_path):
    config = odgt(tmp_path, person([1, 1, -4, 4]))
    with pytest.raises(AnnotationError, match="train.odgt: line 1: 'fbox'.*negative width"):
        config.build()
    (tmp_path / "train.odgt").write_text("{not json\n")
    with pytest.raises(AnnotationError, match="train.odgt: line 1: line: not JSON"):
        config.build()
    (tmp_path / "train.odgt").write_text("\n")
    with pytest.raises(AnnotationError, match="holds no picture"):
        config.build()


# ------------------------------------------------------------------- all alike


def test_every_config_is_plain_data_and_no_path_is_in_its_identity(tmp_path):
    for config in (
        IdentityConfig("/a"),
        PetaAttributesConfig("/a"),
        Pa100kConfig("/a/annotation.mat", "/b"),
        ParsingConfig("/a", "/b", "/c.txt"),
        CountingConfig("/a"),
        CrowdHumanConfig("/a/x.odgt", "/b"),
    ):
        assert from_plain(SourceConfig, to_plain(config)) == config
        assert "/" not in str([v for k, v in source_identity(config).items() if k != "labels"])
