"""Files of other tools: every reader reads what is plainly meant and refuses the rest with file and
entry; nothing ends in a traceback."""

import copy
import json

import pytest
import torch

from humanquery.core.errors import AnnotationError, HumanQueryError
from humanquery.core.foreign import flag, integer, number, read_json, read_text, shown, text
from humanquery.data.check.doctor import check
from humanquery.data.check.stats import measure
from humanquery.data.check.votes import aggregate
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.data.readers.mot import MotSource, read_mot
from humanquery.data.readers.posetrack import read_pose_clip, read_posetrack
from humanquery.evaluation.result_files import evaluate_files
from humanquery.media.images import write_image
from tests.data.coco_files import person, write_file

BOM = b"\xef\xbb\xbf"


def truth_of(folder, change=None):
    """A valid file of one picture and two people, changed."""
    people = [
        person(1, gender=1, age=30, track_id=4, valid={"gender": 1, "age": 1}),
        person(2, box=(30, 10, 20, 30), age_range=[20, 30], face_box=[31, 11, 5, 5]),
    ]
    people[1]["segmentation"] = {"size": [48, 64], "counts": [480, 1000, 1592]}
    path = write_file(folder, people)
    content = json.loads(open(path).read())
    if change is not None:
        content = change(content) or content
        with open(path, "w") as file:
            json.dump(content, file)
    return path


def results_of(folder, change=None):
    path = folder / "results.json"
    row = {"image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 30], "score": 0.9}
    row |= {"keypoints": [12, 8, 1] * 17, "gender": 0.5, "age": 30}
    row["segmentation"] = {"size": [48, 64], "counts": [480, 1000, 1592]}
    rows = [row]
    if change is not None:
        rows = change(rows) or rows
    path.write_text(json.dumps(rows))
    return path


def read_everything(path, results):
    """All that is ever made of a COCO file, by name."""
    source = CocoSource(CocoSourceConfig(path))
    return {
        "samples": [source[i] for i in range(len(source))],
        "report": check(path),
        "stats": measure(path),
        "scores": evaluate_files(path, results),
    }


READERS = {
    "reader": lambda path, results: [s for s in CocoSource(CocoSourceConfig(path))],
    "check": lambda path, results: check(path),
    "stats": lambda path, results: measure(path),
    "evaluate": lambda path, results: evaluate_files(path, results),
}


def first(content, **fields):
    content["annotations"][0].update(fields)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: first(c, id=None),
        lambda c: first(c, id="1"),
        lambda c: first(c, track_id="4"),
        lambda c: first(c, track_id=None),
        lambda c: first(c, valid=None),
        lambda c: first(c, valid=True),
        lambda c: first(c, iscrowd=None),
        lambda c: first(c, num_keypoints=None),
        lambda c: first(c, area=None),
        lambda c: first(c, image_id="1", category_id=1.0),
        lambda c: first(c, category_id="person"),
        lambda c: c["annotations"][0].update(segmentation=c["annotations"][0]["segmentation"][0]),
        lambda c: c["annotations"][1]["segmentation"].update(size=[48.0, 64.0]),
        lambda c: c["images"][0].update(height="48", width=64.0, id="1"),
        lambda c: c.update(categories={"1": "person"}),
        lambda c: c.update(categories={"person": 1}),
        lambda c: c.update(categories={"1": {"name": "person"}}),
        lambda c: c.update(categories=["person"]),
        lambda c: c.update(categories=[{"name": "person"}]),
        lambda c: c.update(categories=None),
        lambda c: c.update(categories=[{"id": 1, "name": "Person"}, {"id": 2, "name": "People"}]),
        lambda c: c.update(categories=[{"id": 1, "name": "People"}, {"id": 2, "name": "dog"}]),
    ],
)
def test_what_is_plainly_meant_is_read_alike_by_every_reader(tmp_path, change):
    path = truth_of(tmp_path, change)
    everything = read_everything(path, results_of(tmp_path))
    target = everything["samples"][0].target
    assert target.boxes.tolist() == [[10, 5, 30, 35], [30, 10, 50, 40]]
    assert target.masks.valid.all() and target.gender.valid.tolist() == [True, False]
    assert everything["stats"].num_people == everything["report"].num_people == 2
    assert everything["scores"].people == 2 and everything["scores"].families["mask"].ap > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: first(c, id="one"), "'id' is 'one', expected a whole number"),
        (
            lambda c: c["annotations"].__setitem__(0, [1]),
            "at place 0.*is \\[1\\], expected an object",
        ),
        (lambda c: c["annotations"].__setitem__(0, None), "is null, expected an object"),
        (lambda c: first(c, image_id=[1]), "'image_id' is \\[1\\]"),
        (lambda c: first(c, track_id="four"), "1: 'track_id' is 'four', expected a whole"),
        (lambda c: first(c, valid=[1]), "1: 'valid' is \\[1\\], expected an object of 0 and 1"),
        (lambda c: first(c, valid={"age": "yes"}), "'age' is 'yes', expected 0 or 1"),
        (lambda c: first(c, gender="male"), "'gender' is 'male', expected 0 .male."),
        (lambda c: first(c, age=10**400), "'age' is 1000.*, expected a finite number"),
        (lambda c: first(c, area="big"), "'area' is 'big', expected a finite number"),
        (lambda c: first(c, segmentation={"size": "x", "counts": 3}), "expected an RLE with size"),
        (lambda c: first(c, keypoints="none"), "'keypoints' has 'none', expected 51"),
    ],
)
def test_a_wrong_annotation_is_refused_with_file_and_entry_by_every_reader(
    tmp_path, change, message
):
    path, results = truth_of(tmp_path, change), results_of(tmp_path)
    message = message.replace("has 'none', expected 51", "has 'none', expected")
    for name in ("reader", "evaluate"):
        with pytest.raises(AnnotationError, match=f"truth.json: annotation .*{message}"):
            READERS[name](path, results)
    report = check(path)
    assert not report.ok and any(f.level == "error" for f in report.findings)
    assert measure(path).num_people == 1  # counted and left out, as `strict=False` says


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(file_name=7), "picture 0: 'file_name' is 7, expected"),
        (lambda c: c["images"][0].update(file_name=None), "'file_name' is null, expected text"),
        (lambda c: c["images"][0].update(height=None), "picture 0: 'height' is null, expected a"),
        (lambda c: c["images"][0].update(height="tall"), "'height' is 'tall', expected a whole"),
        (lambda c: c["images"].__setitem__(0, None), "picture 0: 'picture' is null, expected an"),
        (lambda c: c.update(categories=["person", "dog"]), r"'categories\[0\]' .*has no 'id'"),
        (lambda c: c.update(categories=7), "'categories' is 7, expected a list"),
        (lambda c: c.update(categories=[{"id": 1, "name": n} for n in ("People", "Pedestrian")]),
         "'People' and 'Pedestrian' could all be people"),
        (lambda c: [c], "holds a list of JSON, expected an object"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_alike_by_every_reader(tmp_path, change, message):
    path, results = truth_of(tmp_path, change), results_of(tmp_path)
    readers = dict(READERS)
    if "file_name" in message or "height" in message:
        readers.pop("evaluate")  # numbers alone need no picture
    for read in readers.values():
        with pytest.raises(AnnotationError, match=message):
            read(path, results)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_id": [1]}, "row 0: 'image_id' is \\[1\\], expected a whole number"),
        ({"category_id": 0}, "no row has the 'category_id' of people, 1 in the truth; there are "
                             "1 x 0"),
        ({"category_id": "somebody"}, "row 0: 'category_id' is 'somebody'"),
        ({"gender": "male"}, "image 1: 'gender' is 'male', expected a finite number"),
        ({"age": "old"}, "image 1: 'age' is 'old', expected a finite number"),
        ({"keypoints": ["x"] * 51}, "'keypoints' .* holds NaN, infinity or no number"),
        ({"segmentation": {"size": [48, 64], "counts": "~~"}}, "an RLE mask must be"),
        ({"segmentation": {"size": [2, 2], "counts": [4]}}, "an RLE of 2 x 2, expected the pic"),
        ({"score": None}, "result 0 has no 'score'"),
        ({"skeleton": "h36m17"}, "found people have the joints of h36m17, expected those of coco"),
    ],
)  # fmt: skip
def test_a_wrong_results_row_is_refused_with_its_place(tmp_path, fields, message):
    results = results_of(tmp_path, lambda rows: rows[0].update(fields))
    with pytest.raises(AnnotationError, match=message):
        evaluate_files(truth_of(tmp_path), results)


@pytest.mark.parametrize(
    "fields",
    [
        {"category_id": "1"},
        {"category_id": "person"},
        {"image_id": "1"},
        {"segmentation": {"size": [48.0, 64.0], "counts": [480, 1000, 1592]}},
        {"segmentation": [10, 5, 30, 5, 30, 35, 10, 35]},
        {"skeleton": "coco17"},
    ],
)
def test_a_results_row_that_is_plainly_meant_scores(tmp_path, fields):
    results = results_of(tmp_path, lambda rows: rows[0].update(fields))
    assert evaluate_files(truth_of(tmp_path), results).families["mask"].ap > 0


def test_a_byte_order_mark_is_read_everywhere(tmp_path):
    def marked(path):
        content = open(path, "rb").read()
        with open(path, "wb") as file:
            file.write(BOM + content)
        return path

    path, results = truth_of(tmp_path), results_of(tmp_path)
    assert read_everything(marked(path), marked(results))["scores"].people == 2
    clip = tmp_path / "clip"
    write_image(clip / "img1/000001.png", torch.zeros(8, 8, 3, dtype=torch.uint8).numpy())
    (clip / "gt").mkdir()
    (clip / "gt/gt.txt").write_bytes(BOM + b"1,1,1,1,4,4,1\n")
    (clip / "seqinfo.ini").write_bytes(BOM + b"[Sequence]\nname=walk\n")
    source = MotSource(clip)
    assert len(source.frames[0]) == 1 and source[0].target.source == "walk"
    assert len(read_posetrack(marked(pose_file(tmp_path)))[0].target) == 1
    clip_file = tmp_path / "poses.json"
    clip_file.write_bytes(BOM + json.dumps({"frames": 1, "size": [8, 8], "persons": []}).encode())
    assert len(read_pose_clip(clip_file)) == 1
    votes = tmp_path / "votes.json"
    votes.write_bytes(BOM + b'[{"person": 1, "ages": [30]}]')
    assert aggregate(votes, tmp_path / "ages.json")["num_people"] == 1


def pose_file(folder, change=None):
    path = folder / "sequence.json"
    row = {"id": 1, "image_id": 1, "track_id": 0, "keypoints": [1, 2, 1] * 17}
    row |= {"bbox": [0, 0, 4, 4], "bbox_head": [0, 0, 2, 2], "scores": [0.5] * 17, "score": 0.5}
    record = {"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}
    record |= {"ignore_regions_x": [[0, 1, 1]], "ignore_regions_y": [[0, 0, 1]]}
    content = {"images": [record], "annotations": [row], "categories": [{"id": 1, "name": "p"}]}
    if change is not None:
        content = change(content)
    path.write_text(json.dumps(content))
    return path


STRANGE = (None, [1, None], {}, "x", -1, 10**30, float("nan"))
MORE = (*STRANGE, [], "7", "", True, 0.5, [[[[]]]])


def mutations(content, path=()):
    """(place, content with that one value replaced) for every value in nested data."""
    yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from mutations(value, (*path, key))
    elif isinstance(content, list):
        for i, value in enumerate(content[:2]):  # the first of many joints stand for all
            yield from mutations(value, (*path, i))


def replaced(content, path, value):
    if not path:
        return value
    changed = copy.deepcopy(content)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


def survives(read, content, write, values=STRANGE):
    """Runs `read` on every mutation of `content`; gives those that ended in a traceback."""
    broken = []
    for path in mutations(content):
        for value in values:
            write(replaced(content, path, value))
            try:
                read()
            except HumanQueryError as problem:
                assert str(problem)
            except Exception as problem:
                broken.append((path, shown(value), repr(problem)[:200]))
    return broken


@pytest.mark.parametrize("name", list(READERS))
def test_no_strange_value_anywhere_ends_in_a_traceback(tmp_path, name):
    path, results = truth_of(tmp_path), results_of(tmp_path)
    content = json.loads(open(path).read())

    def write(changed):
        with open(path, "w") as file:
            json.dump(changed, file)

    assert survives(lambda: READERS[name](path, results), content, write) == []


def test_no_strange_value_in_results_poses_or_votes_ends_in_a_traceback(tmp_path):
    path, results = truth_of(tmp_path), results_of(tmp_path)
    pose = pose_file(tmp_path)
    clip, votes = tmp_path / "poses.json", tmp_path / "votes.json"
    joints = {"nose": [1, 2, 1]}
    human = {"frame": 1, "track_id": 1, "joints": joints, "head_box": [0, 0, 2, 2]}
    cases = (
        (lambda: evaluate_files(path, results), results, json.loads(results.read_text())),
        (lambda: read_posetrack(pose), pose, json.loads(pose.read_text())),
        (lambda: read_pose_clip(clip), clip, {"frames": 1, "size": [8, 8], "persons": [human]}),
        (
            lambda: aggregate(votes, tmp_path / "out.json"),
            votes,
            [{"person": 1, "groups": ["kid"], "ages": [7]}],
        ),
    )
    for read, file, content in cases:
        found = survives(read, content, lambda c, file=file: file.write_text(json.dumps(c)))
        assert found == []


@pytest.mark.parametrize(
    "cell", ["", "x", "nan", "inf", "1e400", "-1", "0.5", "99999999999999999999"]
)
def test_no_strange_cell_of_mot_text_ends_in_a_traceback(tmp_path, cell):
    for column in range(9):
        cells = ["1", "1", "1", "1", "4", "4", "1", "1", "1"]
        cells[column] = cell
        (tmp_path / "gt.txt").write_text(",".join(cells))
        for is_truth in (False, True):
            try:
                read_mot(tmp_path / "gt.txt", num_frames=1, truth=is_truth)
            except AnnotationError as problem:
                assert "gt.txt, line 1" in str(problem)


def test_text_that_is_no_json_or_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(AnnotationError, match="deep.json: nested too deeply; expected a file"):
        read_json(path, "a file")
    path.write_bytes(b"\xff\xfe" + "ä".encode("utf-16-le"))
    assert read_text(path, "text") == "ä"
    path.write_bytes(b"\xc3(")
    with pytest.raises(AnnotationError, match="deep.json: not text"):
        read_text(path, "text")
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_text(tmp_path, "text")


def test_getters_give_plain_values_or_name_what_came():
    assert integer("7", "id") == integer(7.0, "id") == 7 and number(0.5, "age") == 0.5
    assert flag(None, "valid") is False and flag(1.0, "valid") is True and text("a", "n") == "a"
    for get, value in ((integer, True), (integer, "+-7"), (number, "7"), (flag, 2), (text, "")):
        with pytest.raises(
            AnnotationError, match=f"'key' is {value!r}, expected".replace("+", r"\+")
        ):
            get(value, "key")
    assert len(shown([[["x" * 1000] * 1000] * 1000])) < 2000
