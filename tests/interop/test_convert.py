"""Label files of other tools: there and back."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from humanquery.cli import app
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.masks import polygons_to_bitmap
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.mot import MotSource
from humanquery.interop.convert import convert, kind_of, read_labels
from humanquery.interop.labels import bitmap_of, one_ring, outlines
from humanquery.interop.results import people_from_json
from humanquery.media.images import write_image
from tests.core.people import three_persons
from tests.interop.labels import SIZE, people_of, ring_mask, write_truth


def there_and_back(folder: Path, kind: str) -> tuple[list[dict], list[dict], dict[str, int]]:
    truth = write_truth(folder / "in")
    name = {"cvat": "labels.xml", "coco": "labels.json"}.get(kind, "out")
    done = convert(truth, kind, folder / name)
    convert(done.out, "coco", folder / "back.json", pictures=folder / "in" / "images")
    return people_of(truth), people_of(folder / "back.json"), done.lost


@pytest.mark.parametrize("kind", ["coco", "cvat", "label-studio", "yolo-pose", "yolo-seg", "yolo"])
def test_boxes_come_back_from_every_format(tmp_path, kind):
    people, back, _ = there_and_back(tmp_path, kind)
    assert len(back) == 2
    for person, again in zip(people, back, strict=True):
        assert again["bbox"] == pytest.approx(person["bbox"], abs=0.51 if "seg" in kind else 1e-4)
    sizes = [
        (r["height"], r["width"])
        for r in json.loads((tmp_path / "back.json").read_text())["images"]
    ]
    assert sizes == [SIZE, SIZE], "a picture with nobody stays"


@pytest.mark.parametrize("kind", ["coco", "cvat", "label-studio", "yolo-pose"])
def test_joints_and_their_visibility_come_back(tmp_path, kind):
    people, back, _ = there_and_back(tmp_path, kind)
    assert back[0]["keypoints"] == pytest.approx(people[0]["keypoints"], abs=1e-4)
    assert not any(back[1].get("keypoints") or [])


@pytest.mark.parametrize("kind", ["coco", "cvat", "label-studio", "yolo-seg"])
def test_masks_come_back_pixel_by_pixel_but_for_holes_of_polygons(tmp_path, kind):
    people, back, lost = there_and_back(tmp_path, kind)
    assert torch.equal(bitmap_of(back[0], SIZE), bitmap_of(people[0], SIZE))
    filled = ring_mask()
    if kind in ("label-studio", "yolo-seg"):
        filled[7:10, 9:12] = True
        assert lost["holes of masks"] == 1
    assert torch.equal(bitmap_of(back[1], SIZE), filled)


@pytest.mark.parametrize("kind", ["coco", "cvat", "label-studio"])
def test_what_annotators_said_comes_back(tmp_path, kind):
    _, back, _ = there_and_back(tmp_path, kind)
    assert (back[0]["gender"], back[0]["age"], back[0]["track_id"]) == (1, 34, 11)
    assert "gender" not in back[1] and back[1]["track_id"] == 12


def test_what_a_format_cannot_hold_is_counted(tmp_path):
    *_, lost = there_and_back(tmp_path, "yolo-pose")
    assert lost == {"crowd regions": 1, "gender": 1, "age": 1, "track_id": 2, "masks": 2}


def test_a_coco_file_that_came_back_is_read_by_the_reader_of_training(tmp_path):
    there_and_back(tmp_path, "cvat")
    images = str(tmp_path / "in" / "images")
    source = CocoSourceConfig(str(tmp_path / "back.json"), images).build()
    assert source[0].target.masks.valid.all() and len(source) == 2


def test_a_clip_comes_back_with_its_tracks_and_ignore_regions(tmp_path):
    truth = write_truth(tmp_path / "in")
    done = convert(truth, "mot", tmp_path / "clip")
    assert done.lost["segmentation"] == 2 and done.kind == "coco"
    clip = MotSource(tmp_path / "clip")
    assert [len(frame) for frame in clip.frames] == [3, 0]
    convert(tmp_path / "clip", "coco", tmp_path / "back.json")
    back = json.loads((tmp_path / "back.json").read_text())["annotations"]
    assert [p["bbox"] for p in back] == [[10, 5, 20, 30], [6, 4, 14, 20], [40, 20, 20, 20]]
    assert [p["iscrowd"] for p in back] == [0, 0, 1] and back[0]["track_id"] == 11
    second = tmp_path / "in" / "images" / "2.png"
    assert (tmp_path / "clip" / "img1" / "000002.png").read_bytes() == second.read_bytes()


def test_mot_without_tracks_is_refused_with_the_way_out(tmp_path):
    truth = write_truth(tmp_path / "in", track_id=None)
    with pytest.raises(AnnotationError, match="1.png: somebody has no track_id.*track --save mot"):
        convert(truth, "mot", tmp_path / "clip")


def result_folder(folder: Path) -> Path:
    """As `humanquery predict` leaves it."""
    for name in ("a", "b"):
        write_image(folder / "photos" / f"{name}.png", torch.zeros(20, 30, 3).byte().numpy())
        said = three_persons().to_json() | {"source": str(folder / "photos" / f"{name}.png")}
        (folder / "found").mkdir(exist_ok=True)
        (folder / "found" / f"{name}.json").write_text(json.dumps(said))
    (folder / "found" / "coco_results.json").write_text("[]")
    (folder / "found" / "images.json").write_text("[]")
    return folder / "found"


def test_what_was_found_becomes_pre_annotations_with_scores(tmp_path):
    found = result_folder(tmp_path)
    convert(found, "label-studio", tmp_path / "tasks")
    tasks = json.loads((tmp_path / "tasks" / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d={name}.png" for name in "ab"
    ]
    assert "annotations" not in tasks[0] and tasks[0]["predictions"][0]["score"] == 0.25
    boxes = [r for r in tasks[0]["predictions"][0]["result"] if r["type"] == "rectanglelabels"]
    assert [box["score"] for box in boxes] == [0.9, 0.5, 0.25]
    assert {r["from_name"] for r in tasks[0]["predictions"][0]["result"]} == {
        "person",
        "mask",
        "joints",
        "gender",
        "age",
        "track_id",
    }
    interface = (tmp_path / "tasks" / "interface.xml").read_text()
    assert '<Label value="left_ankle"/>' in interface
    convert(found, "cvat", tmp_path / "guesses.xml")
    assert 'source="auto"' in (tmp_path / "guesses.xml").read_text()
    again = read_labels(tmp_path / "guesses.xml").annotations
    assert [person["score"] for person in again[:3]] == [0.9, 0.5, 0.25]


def test_results_are_read_as_exactly_as_they_were_written():
    people = three_persons()
    again = people_from_json(json.loads(json.dumps(people.to_json())))
    assert again.to_json() == people.to_json()
    nobody = people_from_json(people[[]].to_json())
    assert len(nobody) == 0 and nobody.image_size == people.image_size
    with pytest.raises(AnnotationError, match="'box' has 3 numbers, expected 4"):
        people_from_json({"image_size": [4, 4], "persons": [{"box": [0, 0, 1], "score": 1}]})


def test_outlines_hold_the_centres_of_exactly_their_pixels():
    draw = torch.Generator().manual_seed(3)
    for _ in range(20):
        mask = torch.rand(12, 15, generator=draw) > 0.4
        lost = Counter()
        polygons = outlines(mask, lost)
        painted = polygons_to_bitmap(polygons, mask.shape)
        assert not (mask & ~painted).any(), "nothing of the mask is left out"
        if not lost:
            assert torch.equal(painted, mask)
    assert outlines(torch.zeros(3, 3, dtype=torch.bool), Counter()) == []


def test_outlines_joined_to_one_ring_are_the_same_pixels():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[1:5, 2:8], mask[10:18, 20:29], mask[8:9, 3:4] = True, True, True
    ring = one_ring(outlines(mask, Counter()))
    assert torch.equal(polygons_to_bitmap([ring], (20, 30)), mask)


def test_label_studio_joints_without_a_parent_go_to_the_smallest_box_around_them(tmp_path):
    def box(key, x, y, w, h):
        value = {"x": x, "y": y, "width": w, "height": h, "rectanglelabels": ["Person"]}
        return {"id": key, "type": "rectanglelabels", "value": value} | size

    def joint(x, y):
        value = {"x": x, "y": y, "width": 1, "keypointlabels": ["Left Eye"]}
        return {"id": f"{x}", "type": "keypointlabels", "value": value} | size

    size = {"original_width": 200, "original_height": 100}
    result = [box("a", 0, 0, 100, 100), box("b", 10, 10, 20, 20), joint(12, 12), joint(15, 15)]
    result += [{"id": "x", "type": "brushlabels", "value": {}} | size]
    task = {"data": {"image": "/data/upload/1/0a1b2c3d-p.jpg"}}
    task["annotations"] = [{"was_cancelled": True, "result": []}, {"result": result}]
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    labels = read_labels(path)
    large, small = labels.annotations
    assert small["keypoints"][3:6] == [23.5, 11.5, 2] and large["keypoints"][3:6] == [29.5, 14.5, 2]
    assert labels.skeleton.name == "coco17"
    assert dict(labels.lost) == {"regions of kind brushlabels": 1}
    assert labels.images[0]["file_name"] == "0a1b2c3d-p.jpg"


def test_a_cvat_skeleton_alone_is_a_person(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        '<annotations><version>1.1</version><image id="0" name="a.jpg" width="30" height="20">'
        '<skeleton label="person_pose"><points label="nose" outside="0" occluded="1" '
        'points="3.5,4.5"/><points label="left_eye" outside="0" occluded="0" points="9.5,8.5"/>'
        '<points label="left_ear" outside="1" occluded="0" points="0,0"/></skeleton>'
        '<box label="car" xtl="0" ytl="0" xbr="5" ybr="5"/><box label="person" xtl="1" ytl="2" '
        'xbr="5" ybr="5.5"/><tag label="x"/></image></annotations>'
    )
    labels = read_labels(path)
    pose, boxed = labels.annotations
    assert pose["bbox"] == [3, 4, 6, 4] and pose["keypoints"][:6] == [3, 4, 1, 9, 8, 2]
    assert pose["num_keypoints"] == 2 and boxed["bbox"] == [1, 2, 4, 3.5]
    assert dict(labels.lost) == {"shapes of other labels": 1, "shapes of kind tag": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<a>", "not XML"),
        ("a.xml", "<a/>", "begins with <a>, expected <annotations>"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY y "z">]><annotations/>', "declares XML entities"),
        ("a.xml", "<annotations><track/></annotations>", "CVAT for images 1.1"),
        (
            "a.xml",
            '<annotations><image name="p" width="9" height="9"><mask label="person" left="0" '
            'top="0" width="3" height="3" rle="2, 2"/></image></annotations>',
            "picture 'p': <mask> 0 .*'rle' counts 4 pixels for a part of 3 x 3",
        ),
        ("a.json", '[{"data": {"image": "p.jpg"}}]', r"task 0.*p.jpg: no region says.*--images"),
        ("a.json", '[{"data": 3}]', "task 0.*'data' is 3, expected an object"),
        ("a.txt", "0 1 1 1 1", "expected a COCO file.*name it with --from"),
        ("a.json", '{"images": []}', "no list 'annotations'"),
    ],
)
def test_files_that_are_no_labels_are_told_with_place_and_remedy(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_labels(tmp_path / name)


def yolo(folder: Path, line: str, settings: str = "") -> Path:
    write_image(folder / "images" / "train" / "a.png", torch.zeros(20, 40, 3).byte().numpy())
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text(line)
    if settings:
        (folder / "data.yaml").write_text(settings)
    return folder


def test_a_yolo_folder_of_other_people_is_read(tmp_path):
    settings = "names: [car, pedestrian]\nkpt_shape: [2, 2]\n"
    line = "1 0.5 0.5 0.5 1 0.25 0.5 0 0\n\n0 0.5 0.5 0.1 0.1\n"
    labels = read_labels(yolo(tmp_path, line, settings))
    (person,) = labels.annotations
    assert labels.images[0]["file_name"] == "train/a.png"
    assert person["bbox"] == [10, 0, 20, 20]
    assert person["keypoints"] == [10, 10, 2, 0, 0, 0] and len(labels.skeleton) == 2
    assert dict(labels.lost) == {"lines of other classes": 1}


@pytest.mark.parametrize(
    ("line", "settings", "message"),
    [
        ("0 0.5 0.5", "", "a.txt, line 1: 2 numbers behind the class, expected 4"),
        ("0 1 1 1 x", "", "line 1: '0 1 1 1 x' holds something else than numbers"),
        ("0 1 1 1 nan", "", "holds NaN"),
        ("0 1 1 1 1 1", "kpt_shape: [2, 3]", "5 numbers behind the class, expected 4 .*or 10"),
        ("", "kpt_shape: [2, 4]", r"data.yaml: 'kpt_shape' is \[2, 4\]"),
        ("", "names: 3", "'names' is 3, expected the names of classes"),
        ("", "names: [car, bus]", "exactly one class that means people"),
        ("", "a: [", "not YAML"),
    ],
)
def test_a_yolo_folder_that_is_none_is_told_with_file_and_line(tmp_path, line, settings, message):
    with pytest.raises(AnnotationError, match=message):
        read_labels(yolo(tmp_path, line, settings))


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    truth = json.loads(write_truth(tmp_path / "in").read_text())
    for name in ("../evil.png", "/etc/evil.png", "C:\\evil.png"):
        truth["images"][0]["file_name"] = name
        (tmp_path / "bad.json").write_text(json.dumps(truth))
        with pytest.raises(AnnotationError, match="leads out of its folder"):
            convert(tmp_path / "bad.json", "yolo", tmp_path / "out" / "deep", copy=False)


def test_nothing_of_the_user_is_written_over(tmp_path):
    truth = write_truth(tmp_path / "in")
    before = truth.read_text()
    for copy in (True, False):
        with pytest.raises(ConfigError, match="is an input of this run"):
            convert(truth, "coco", truth, overwrite=True, copy=copy)
    with pytest.raises(ConfigError, match="is there already and not empty"):
        convert(truth, "yolo", tmp_path / "in", overwrite=True)
    (tmp_path / "mine.xml").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not ours"):
        convert(truth, "cvat", tmp_path / "mine.xml")
    with pytest.raises(ConfigError, match=r"expected the name of a \.xml file"):
        convert(truth, "cvat", tmp_path / "x.json")
    assert truth.read_text() == before and (tmp_path / "mine.xml").read_text() == "mine"


def test_pictures_that_are_missing_are_told_before_anything_is_written(tmp_path):
    truth = write_truth(tmp_path / "in")
    (tmp_path / "in" / "images" / "2.png").unlink()
    with pytest.raises(AnnotationError, match="1 of 2 pictures are not there, '2.png' for one"):
        convert(truth, "yolo", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert convert(truth, "yolo", tmp_path / "out", copy=False).people == 3
    with pytest.raises(ConfigError, match=r"--to yulo: unknown format.*Did you mean 'yolo'"):
        convert(truth, "yulo", tmp_path / "o2")
    with pytest.raises(ConfigError, match="--from coca: unknown format"):
        convert(truth, "yolo", tmp_path / "o2", kind="coca")


def test_an_empty_file_stays_empty(tmp_path):
    (tmp_path / "empty.json").write_text('{"images": [], "annotations": []}')
    for to, name in (("cvat", "a.xml"), ("label-studio", "ls"), ("coco", "b.json"), ("mot", "m")):
        done = convert(tmp_path / "empty.json", to, tmp_path / name, copy=False)
        assert (done.pictures, done.people, done.lost) == (0, 0, {})
    assert read_labels(tmp_path / "a.xml").images == []


def test_the_kind_is_told_by_what_lies_there(tmp_path):
    assert kind_of(write_truth(tmp_path / "in")) == "coco"
    assert kind_of(result_folder(tmp_path)) == "results"
    assert kind_of(yolo(tmp_path / "y", "")) == "yolo"
    with pytest.raises(AnnotationError, match="name it with --from"):
        kind_of(tmp_path / "photos" / "..")


def test_the_verb_says_what_became_of_the_labels(tmp_path):
    truth = write_truth(tmp_path / "in")
    out = str(tmp_path / "y")
    done = CliRunner().invoke(
        app, ["data", "convert", str(truth), "--to", "yolo-seg", "--out", out]
    )
    assert done.exit_code == 0, done.output
    assert "coco to yolo-seg: 3 people in 2 pictures" in done.output
    assert "not kept: 1 x holes of masks" in done.output
    assert (tmp_path / "y" / "images" / "2.png").is_file()
    assert (tmp_path / "y" / "labels" / "2.txt").read_text() == ""
