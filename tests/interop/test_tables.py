"""People as tables and back."""

import csv

import pytest
import torch

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.persons import ROWS_VERSION, Persons
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.interop import tables
from humanquery.predict.track_files import CsvPictures, CsvRows
from tests.core.people import SIZE, assert_same, three_persons


def test_a_table_gives_the_same_people_back():
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    people = three_persons()
    assert_same(tables.from_arrow(people.to_arrow(picture="a.jpg")), people)
    assert_same(tables.from_pandas(people.to_pandas(picture="a.jpg")), people)
    assert_same(tables.from_rows(people.to_rows()), people)


def test_fields_that_are_not_given_stay_none():
    pytest.importorskip("pandas")
    people = Persons(image_size=SIZE, boxes=torch.rand(2, 4), scores=torch.tensor([0.5, 0.25]))
    assert_same(tables.from_pandas(people.to_pandas()), people)


def test_a_picture_with_nobody_has_the_same_columns():
    pandas = pytest.importorskip("pandas")
    nobody, people = Persons.empty(SIZE).to_pandas(), three_persons().to_pandas()
    assert list(nobody) == list(people) and len(nobody) == 0
    both = pandas.concat([people, nobody])
    assert len(both) == 3 and both["track_ids"].tolist() == [7, 8, 9]
    assert tables.from_pandas(nobody, image_size=SIZE).image_size == SIZE
    with pytest.raises(AnnotationError, match="pass image_size"):
        tables.from_pandas(nobody)


def test_arrow_columns_have_their_types_and_the_version_of_their_meaning():
    pytest.importorskip("pyarrow")
    table = Persons.empty(SIZE).to_arrow(picture="a.jpg")
    assert table.num_rows == 0 and table.column_names[:3] == [
        "picture",
        "image_height",
        "image_width",
    ]
    assert str(table.schema.field("keypoints").type) == "list<item: float>"
    assert table.schema.metadata == {b"humanquery_rows": b"1"}


ARROW_COLUMNS = {
    "image_height": "int32",
    "image_width": "int32",
    "person": "int32",
    "box": "list<item: float>",
    "score": "float",
    "mask": "string",
    "skeleton": "string",
    "keypoints": "list<item: float>",
    "keypoint_scores": "list<item: float>",
    "mask_scores": "float",
    "pose_scores": "float",
    "gender": "float",
    "age": "float",
    "face_boxes": "list<item: float>",
    "embeddings": "list<item: float>",
    "track_ids": "int64",
}
"""version 1: whoever reads tables of others relies on these names, types and order. A change needs
another ROWS_VERSION"""


@pytest.mark.parametrize(
    "people",
    [
        Persons.empty(SIZE),
        Persons(image_size=SIZE, boxes=torch.rand(2, 4), scores=torch.rand(2)),
        three_persons(),
    ],
    ids=["nobody", "boxes alone", "everything"],
)
def test_the_whole_arrow_schema_is_the_same_whatever_a_picture_holds(people):
    pytest.importorskip("pyarrow")
    assert ROWS_VERSION == 1
    schema = people.to_arrow().schema
    assert {field.name: str(field.type) for field in schema} == ARROW_COLUMNS
    assert schema.names == list(ARROW_COLUMNS) == list(Persons.columns())
    assert all(list(row) == list(ARROW_COLUMNS) for row in people.to_rows())


def test_rows_that_are_no_picture_are_refused():
    rows = three_persons().to_rows()
    with pytest.raises(AnnotationError, match="group the table by its picture first"):
        tables.from_rows([rows[0], rows[1] | {"image_width": 99}])
    with pytest.raises(AnnotationError, match="column 'age': 1 of 3 rows have no value"):
        tables.from_rows([*rows[:2], rows[2] | {"age": None}])
    with pytest.raises(AnnotationError, match="rows without 'box'.*columns of Persons.to_rows"):
        tables.from_rows([{"score": 1.0, "image_height": 4, "image_width": 4}])
    with pytest.raises(AnnotationError, match="'skeleton' says 'mine'.*pass skeleton="):
        tables.from_rows([row | {"skeleton": "mine"} for row in rows])
    with pytest.raises(AnnotationError, match="column 'mask': an RLE mask"):
        tables.from_rows([row | {"mask": "0"} for row in rows])
    mine = Skeleton("mine", COCO17.joints, (), ())
    assert tables.from_rows(rows, skeleton=mine).skeleton is mine


def test_a_missing_package_is_one_message_with_the_command(monkeypatch):
    def without(name):
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("humanquery.interop.packages.import_module", without)
    with pytest.raises(ConfigError) as told:
        three_persons().to_pandas()
    assert str(told.value) == ("Persons.to_pandas needs pandas: pip install 'humanquery[interop]'")


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_spreadsheet_has_one_plain_number_per_cell(tmp_path):
    people = three_persons()
    file = CsvPictures(tmp_path / "people.csv")
    file.rows(("a,b.jpg",), people)
    file.rows(("empty.jpg",), Persons.empty(SIZE))
    file.rows(("c.jpg",), people[:1])
    file.close()
    rows = read(tmp_path / "people.csv")
    assert [row["file_name"] for row in rows] == ["a,b.jpg"] * 3 + ["c.jpg"]
    first = rows[0]
    assert float(first["x1"]) == people.boxes[0, 0] and float(first["score"]) == 0.9
    assert float(first["age"]) == 3.0 and first["track_ids"] == "7"
    assert float(first["nose_x"]) == people.keypoints[0, 0, 0]
    assert float(first["right_ankle_score"]) == pytest.approx(
        float(people.keypoint_scores[0, 16]), abs=1e-4
    )
    assert not [name for name in first if "mask" == name or "embedding" in name]


def test_a_spreadsheet_of_a_video_goes_on_where_it_stood(tmp_path):
    path, people = tmp_path / "tracks.csv", three_persons()
    file = CsvRows(path)
    file.write(0, 0.0, Persons.empty(SIZE))
    file.write(1, 0.04, people[:2])
    mark = file.mark()
    file.write(2, 0.08, people)
    file.close()
    again = CsvRows(path, mark)
    again.write(2, 0.08, people[:1])
    again.close()
    assert [(row["frame"], row["track_ids"]) for row in read(path)] == [
        ("1", "7"),
        ("1", "8"),
        ("2", "7"),
    ]


def test_people_with_other_fields_are_not_written_into_the_same_columns(tmp_path):
    file = CsvPictures(tmp_path / "people.csv")
    file.rows(("a",), three_persons())
    with pytest.raises(ConfigError, match="differ in age.*to its own file"):
        file.rows(("b",), three_persons().replace(age=None))
    file.close()


def test_a_number_that_is_not_finite_is_an_empty_cell():
    people = three_persons()
    age = people.age.clone()
    age[1] = float("nan")
    people = people.replace(age=age)
    at = tables.flat_columns(people).index("age")
    assert [row[at] for row in tables.flat_rows(people)] == [3.0, None, 84.0]
