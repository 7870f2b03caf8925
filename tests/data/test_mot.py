import numpy as np
import pytest
import torch

from humanquery.core.batch import Batch
from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.data.readers.mot import MotConfig, MotSource, mot_lines, read_mot, write_mot
from humanquery.data.readers.sources import Source
from humanquery.media.images import write_image
from tests.paths import DATA, needs_data


def _file(tmp_path, text: str):
    path = tmp_path / "gt.txt"
    path.write_text(text)
    return path


def _clip(
    folder,
    text: str = "1,1,1,1,10,20,1,-1,-1,-1\n",
    names=("000001.png", "000002.png"),
    info: str = "",
):
    (folder / "gt").mkdir(parents=True)
    (folder / "gt/gt.txt").write_text(text)
    for i, name in enumerate(names):
        write_image(folder / "img1" / name, np.full((20, 30, 3), 10 * i, np.uint8))
    if info:
        (folder / "seqinfo.ini").write_text(info)
    return folder


def test_frames_and_pixels_are_counted_from_one_in_the_file(tmp_path):
    frames = read_mot(_file(tmp_path, "2,5,1,1,10,20,1,-1,-1,-1\n"))
    assert [len(frame) for frame in frames] == [0, 1]
    assert frames[1].boxes.tolist() == [[0, 0, 10, 20]]
    assert frames[1].ids.tolist() == [5]


def test_an_empty_file_is_a_clip_without_people(tmp_path):
    assert read_mot(_file(tmp_path, "")) == []
    assert [len(frame) for frame in read_mot(_file(tmp_path, "\n"), num_frames=3)] == [0, 0, 0]


def test_confidence_minus_one_is_valid_and_zero_is_an_ignore_row(tmp_path):
    path = _file(tmp_path, "1,1,1,1,9,9,-1,-11773,-14337,0\n1,2,1,1,9,9,0,-1,-1,-1\n1,3,1,1,9,9\n")
    (truth,) = read_mot(path, truth=True)
    assert truth.ignore.tolist() == [False, True, False]
    (found,) = read_mot(path)
    assert found.scores.tolist() == [1, 0, 1]
    assert not found.ignore.any()


def test_of_mot16_truth_only_people_stay_and_those_like_people_are_ignored(tmp_path):
    rows = "".join(f"1,{c},1,1,9,9,1,{c},0.5\n" for c in range(1, 14))
    (truth,) = read_mot(_file(tmp_path, rows), truth=True)
    assert truth.ids.tolist() == [1, 2, 7, 8, 12, 13]
    assert truth.ignore.tolist() == [False] + [True] * 5


def test_spaces_separate_as_well_as_commas(tmp_path):
    assert read_mot(_file(tmp_path, "1 1 2 3 4 5 1\n"))[0].boxes.tolist() == [[1, 2, 5, 7]]


def test_raw_detections_have_no_identity(tmp_path):
    (frame,) = read_mot(_file(tmp_path, "1,-1,1,1,9,9,.5\n1,-1,1,1,9,9,.75\n"))
    assert (frame.ids.tolist(), frame.scores.tolist()) == ([-1, -1], [0.5, 0.75])


def test_rows_become_targets_and_people_in_order_of_score(tmp_path):
    (frame,) = read_mot(_file(tmp_path, "1,4,1,1,10,20,.5\n1,6,1,1,9,9,.75\n"))
    target, people = frame.target((50, 60)), frame.persons((50, 60))
    assert target.track_ids.tolist() == [4, 6] and target.areas[0].item() == pytest.approx(
        0.53 * 200
    )
    assert people.track_ids.tolist() == [6, 4] and people.scores.tolist() == [0.75, 0.5]


def test_what_is_written_comes_back(tmp_path):
    text = "1,1,399,182.25,121,229,1,-1,-1,-1\n3,2,0.1234,5.5,7.75,8,0.25,-1,-1,-1\n"
    frames = read_mot(_file(tmp_path, text))
    assert write_mot(tmp_path / "deep/again.txt", iter(frames)) == 2
    assert (tmp_path / "deep/again.txt").read_text() == text


def test_persons_and_targets_are_written_with_their_ids(tmp_path):
    people = Persons(
        image_size=(50, 60),
        boxes=torch.tensor([[0.0, 1, 10, 21]]),
        scores=torch.tensor([0.5]),
        track_ids=torch.tensor([3]),
    )
    assert mot_lines(people, 7) == ["7,3,1,2,10,20,0.5,-1,-1,-1"]
    (frame,) = read_mot(_file(tmp_path, "1,1,1,1,9,9,0,-1,-1,-1\n"), truth=True)
    assert mot_lines(frame.target((50, 60)), 1) == ["1,1,1,1,9,9,0,-1,-1,-1"]
    assert mot_lines(people[[]], 1) == []


def test_people_without_ids_and_frame_zero_cannot_be_written(tmp_path):
    with pytest.raises(
        AnnotationError, match="people of frame 1 have no track ids; pass what a tracker returned"
    ):
        write_mot(tmp_path / "x.txt", [Persons.empty((5, 5))])
    with pytest.raises(AnnotationError, match="frame 0, expected 1 or more"):
        mot_lines(Persons.empty((5, 5)), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1,1,1,1,9,9,1\nhello\n",
            "gt.txt, line 2: 1 numbers in 'hello', expected frame,id,x,y.*; is this MOT text",
        ),
        ("1,1,1,1,9,x,1\n", "line 1: '1,1,1,1,9,x,1' holds something else than numbers"),
        ("1,1,nan,1,9,9,1\n", "line 1: .* holds NaN or infinity"),
        ("-1,1,1,1,9,9,1\n", "line 1: frame -1, expected 1 to 3; MOT counts frames from 1"),
        ("0,1,1,1,9,9,1\n", "line 1: frame 0, expected 1 to 3"),
        ("4,1,1,1,9,9,1\n", "line 1: frame 4, expected 1 to 3; .* Is this file for another clip"),
        ("1.5,1,1,1,9,9,1\n", "line 1: frame 1.5 and id 1, expected a whole frame number"),
        ("1,-2,1,1,9,9,1\n", "line 1: frame 1 and id -2, expected .* a whole id from 0"),
        ("1,1,9,9,-5,9,1\n", "line 1: a box -5 wide and 9 high, expected no negative side"),
        (
            "1,7,1,1,9,9,1\n2,7,1,1,9,9,1\n\n1,7,1,1,9,9,1\n",
            "line 4: id 7 comes twice in frame 1 .first in line 1.",
        ),
        (
            "1,1,1,1,9,9,1,77,1\n",
            "line 1: class 77, expected 1 .person. to 13 in the eighth of nine columns",
        ),
    ],
)
def test_a_malformed_line_is_told_with_file_and_line(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_mot(_file(tmp_path, text), num_frames=3, truth=True)


def test_missing_and_binary_files_are_told(tmp_path):
    with pytest.raises(AnnotationError, match="nowhere.txt: cannot be read"):
        read_mot(tmp_path / "nowhere.txt")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(AnnotationError, match="picture.txt: not text"):
        read_mot(tmp_path / "picture.txt")


def test_a_clip_is_a_source_of_samples_with_ids(tmp_path):
    info = "[Sequence]\nname=street\nimDir=img1\nframeRate=25\nseqLength=2\n"
    source = MotConfig(str(_clip(tmp_path / "clip", info=info))).build()
    assert isinstance(source, Source)
    assert (len(source), source.name, source.frame_rate, source.image_size) == (
        2,
        "street",
        25.0,
        (20, 30),
    )
    first, last = source[0], source[-1]
    assert (first.target.track_ids.tolist(), len(last.target)) == ([1], 0)
    assert first.image.shape == (20, 30, 3) and last.image[0, 0, 0] == 10
    assert (first.meta.image_id, last.meta.image_id, first.meta.image_size) == (1, 2, (20, 30))
    assert len(Batch.collate([first, last])) == 2
    with pytest.raises(IndexError, match="no frame 2, there are 2"):
        source[2]


def test_pictures_go_by_their_number_not_by_the_alphabet(tmp_path):
    names = [f"frame_{i}.png" for i in range(1, 12)]
    source = MotSource(_clip(tmp_path / "clip", names=names))
    assert source.name == "clip" and source.frame_rate is None
    assert [source[i].image[0, 0, 0] for i in (1, 10)] == [10, 100]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ()}, "no pictures in .*; expected a MOT clip"),
        ({"names": ("000001.png", "000003.png")}, "img1: the picture of frame 2 is missing"),
        ({"names": ("000004.png",)}, "img1: the picture of frame 1 is missing"),
        ({"names": ("a.png",)}, "a.png: its name has no frame number"),
        ({"names": ("a_01.png", "b_01.png")}, "01.png: its name has the number of ._01.png"),
        ({"text": "3,1,1,1,9,9,1,-1,-1,-1\n"}, "line 1: frame 3, expected 1 to 2"),
        ({"info": "[Sequence]\nseqLength=9\n"}, "seqinfo.ini says 9 frames, 2 pictures lie there"),
        (
            {"info": "[Sequence]\nseqLength=many\n"},
            "seqinfo.ini: seqLength is 'many', expected a number above 0",
        ),
        (
            {"info": "no ini at all"},
            "seqinfo.ini: not a seqinfo.ini .*; expected .Sequence. with seqLength",
        ),
        ({"info": "[Other]\na=1\n"}, "seqinfo.ini: not a seqinfo.ini"),
    ],
)
def test_a_clip_that_does_not_fit_together_is_told(tmp_path, changes, message):
    with pytest.raises(AnnotationError, match=message):
        MotSource(_clip(tmp_path / "clip", **changes))


@needs_data
@pytest.mark.parametrize(
    ("name", "frames", "people"), [("TUD-Stadtmitte", 179, 10), ("PETS-S3MF1", 107, 7)]
)
def test_the_real_clips_are_read(name, frames, people):
    source = MotSource(DATA / "tracking" / name)
    assert len(source) == frames
    identities = {int(i) for frame in source.frames for i in frame.ids}
    assert len(identities) == people
    assert not any(frame.ignore.any() for frame in source.frames)
    sample = source[frames - 1]
    assert sample.image.shape[:2] == sample.target.image_size == source.image_size
