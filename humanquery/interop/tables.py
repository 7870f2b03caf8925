"""People as rows of a table: Arrow, pandas, and flat columns for a spreadsheet; and back."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.errors import AnnotationError
from humanquery.core.fields import FieldSpec
from humanquery.core.foreign import located, shown
from humanquery.core.masks import rle_to_bitmap
from humanquery.core.persons import ROWS_VERSION, Persons
from humanquery.core.rows import Extra
from humanquery.core.skeleton import Skeleton
from humanquery.interop.packages import needed

ARROW, PANDAS = "'humanquery[parquet]'", "'humanquery[interop]'"


def arrow_schema(columns: Mapping[str, str]) -> Any:
    """The Arrow schema of columns as `Persons.columns` names them, with the version of their
    meaning in its metadata (`humanquery_rows`)."""
    pyarrow = needed("pyarrow", "an Arrow table", ARROW)
    kinds = {
        "int32": pyarrow.int32(),
        "int64": pyarrow.int64(),
        "float32": pyarrow.float32(),
        "float64": pyarrow.float64(),
        "string": pyarrow.string(),
    }
    fields = [
        (n, pyarrow.list_(kinds[k[5:-1]]) if k.startswith("list<") else kinds[k])
        for n, k in columns.items()
    ]
    return pyarrow.schema(fields, metadata={"humanquery_rows": str(ROWS_VERSION)})


def to_arrow(people: Persons, **constants: str) -> Any:
    """A `pyarrow.Table` of `Persons.to_rows`, one row per person, after columns of text that are
    the same for all (`picture="a.jpg"`). ConfigError without pyarrow."""
    pyarrow = needed("pyarrow", "Persons.to_arrow", ARROW)
    specs = {name: one.spec for name, one in people.extra.items()}
    columns = {**dict.fromkeys(constants, "string"), **Persons.columns(specs)}
    rows = [constants | row for row in people.to_rows()]
    return pyarrow.Table.from_pylist(rows, schema=arrow_schema(columns))


def to_pandas(people: Persons, **constants: Any) -> Any:
    """A `pandas.DataFrame` of `Persons.to_rows`, one row per person, after columns that are the
    same for all (`picture="a.jpg"`); a picture with nobody has the columns too. ConfigError without
    pandas.

    Boxes, joints and embeddings are lists, as in Arrow; numbers that the model does not give are
    missing (NaN).
    """
    pandas = needed("pandas", "Persons.to_pandas", PANDAS)
    specs = {name: one.spec for name, one in people.extra.items()}
    columns = [*constants, *Persons.columns(specs)]
    return pandas.DataFrame([constants | row for row in people.to_rows()], columns=columns)


def from_arrow(table: Any, **options: Any) -> Persons:
    """The inverse of `to_arrow`; options and errors as `from_rows`."""
    return from_rows(table.to_pylist(), **options)


def from_pandas(frame: Any, **options: Any) -> Persons:
    """The inverse of `to_pandas`; options and errors as `from_rows`."""
    return from_rows(frame.to_dict("records"), **options)


def from_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    image_size: Size | None = None,
    skeleton: Skeleton | None = None,
    extra: Mapping[str, FieldSpec] | None = None,
) -> Persons:
    """The people of one picture from rows as `Persons.to_rows` gives them; further columns are
    passed over, but for fields that `extra` declares.

    `image_size` is needed where there is no row, `skeleton` where its name is not built in. Rows
    of several pictures, without a box, or with a field in some rows only raise AnnotationError.
    """
    sizes = {(row.get("image_height"), row.get("image_width")) for row in rows}
    if len(sizes) > 1:
        raise AnnotationError(
            f"rows of pictures of {len(sizes)} sizes ({shown(sorted(sizes, key=str))}), expected "
            "those of one picture; group the table by its picture first"
        )
    if not rows:
        if image_size is None:
            raise AnnotationError("no rows: nobody says how large the picture is; pass image_size")
        return Persons.empty(image_size, skeleton)
    size = image_size or tuple(int(side) for side in sizes.pop())
    columns = {name: values for name in rows[0] if (values := _column(rows, name)) is not None}
    for name in ("box", "score"):
        if name not in columns:
            raise AnnotationError(
                f"rows without {name!r}, expected the columns of Persons.to_rows; found "
                f"{', '.join(map(str, rows[0]))}"
            )
    if "keypoints" in columns and skeleton is None:
        skeleton = _skeleton(columns.get("skeleton"))
    return _persons(columns, size, skeleton, extra or {})


def _persons(
    columns: Mapping[str, list], size: Size, skeleton: Skeleton | None, extra: Mapping
) -> Persons:
    fields: dict[str, Tensor] = {"boxes": _floats(columns["box"])}
    fields["scores"] = _floats(columns["score"])
    if "mask" in columns:
        with located("column 'mask'"):
            rles = [{"size": list(size), "counts": counts} for counts in columns["mask"]]
            fields["masks"] = torch.stack([rle_to_bitmap(rle) for rle in rles])
    if "keypoints" in columns:
        fields["keypoints"] = _floats(columns["keypoints"]).reshape(-1, len(skeleton), 2)
    if "keypoint_scores" in columns:
        fields["keypoint_scores"] = _floats(columns["keypoint_scores"])
    more: dict[str, Extra] = {}
    for name, spec in {**Persons.specs(), **extra}.items():
        if spec.column and name in columns:
            whole = "int" in spec.column
            value = torch.tensor(columns[name]) if whole else _floats(columns[name])
            value = value.long() if whole else value
            if name in extra:
                more[name] = Extra(spec, value)
            else:
                fields[name] = value
    return Persons(image_size=size, skeleton=skeleton, extra=more, **fields)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list | None:
    """The values of one column, None where no row has any."""
    given = [not _is_missing(row.get(name)) for row in rows]
    if not any(given):
        return None
    if not all(given):
        raise AnnotationError(
            f"column {name!r}: {given.count(False)} of {len(rows)} rows have no value; expected "
            "all or none of one picture's"
        )
    return [
        value.tolist() if hasattr(value, "tolist") else value
        for value in (row[name] for row in rows)
    ]


def _is_missing(value: Any) -> bool:
    """None, or the NaN that pandas puts in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _floats(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _skeleton(names: list | None) -> Skeleton:
    name = names[0] if names else None
    known = None if name is None else Skeleton.find(name)
    if known is None:
        raise AnnotationError(
            f"column 'skeleton' says {shown(name)}, which is not built in; pass skeleton=..."
        )
    return known


def flat_columns(people: Persons) -> list[str]:
    """Names of the columns of `flat_rows` for people with these fields: `person`, the box as x1,
    y1, x2, y2, `score`, one column per number (gender, age, track_id ...), four of the face box,
    and x, y and score of each joint. Masks and embeddings have no place in a spreadsheet."""
    names = ["person", "x1", "y1", "x2", "y2", "score"]
    for name, spec in _flat_specs(people).items():
        names += (
            [f"{name}_{side}" for side in ("x1", "y1", "x2", "y2")]
            if (spec.kind == "boxes")
            else [name]
        )
    if people.keypoints is not None:
        names += [f"{joint}_{part}" for joint in people.skeleton.joints for part in _JOINT_PARTS]
    return names


_JOINT_PARTS = ("x", "y", "score")


def flat_rows(people: Persons) -> list[list[Any]]:
    """One list per person in the order of `flat_columns`: px to 0.001, scores to 0.0001; a number
    that is not given or not finite is None (an empty cell)."""
    people = people.to("cpu")
    specs = _flat_specs(people)
    rows = []
    for i in range(len(people)):
        row = [i, *_cells(people.boxes[i], 3), *_cells(people.scores[i : i + 1], 4)]
        for name, spec in specs.items():
            row += _cells(people.get(name)[i].reshape(-1), spec.digits)
        if people.keypoints is not None:
            scores = people.keypoint_scores
            for k, point in enumerate(people.keypoints[i]):
                row += [
                    *_cells(point, 3),
                    *([None] if scores is None else _cells(scores[i, k : k + 1], 4)),
                ]
        rows.append(row)
    return rows


def _flat_specs(people: Persons) -> dict[str, FieldSpec]:
    """Fields with one number, or one box, per person."""
    return {
        name: spec
        for name, spec in people.all_specs().items()
        if name not in ("boxes", "scores")
        and (value := people.get(name)) is not None
        and (spec.kind == "boxes" or (spec.kind == "row" and value.ndim == 1))
    }


def _cells(values: Tensor, digits: int) -> list[Any]:
    whole = not values.is_floating_point()
    return [v if whole else round(v, digits) if math.isfinite(v) else None for v in values.tolist()]
