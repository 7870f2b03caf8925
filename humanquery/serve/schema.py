"""What the OpenAPI document says of bodies and answers. Answers are written by `answers.py` without
going through these models: a test holds the two together."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

Number = float | None
"""a number that is not finite is null"""


class Mask(BaseModel):
    """COCO run lengths."""

    size: Annotated[list[int], Field(description="Height, width in px.")]
    counts: str


class Gender(BaseModel):
    female: Annotated[Number, Field(description="Probability, apparent.")]


class Person(BaseModel):
    """One person. What the model does not give, or was not asked for, is absent."""

    box: Annotated[list[Number], Field(description="x1, y1, x2, y2 in px.")]
    score: Number
    keypoints: Annotated[
        list[list[Number]],
        Field(description="x, y in px and score of each joint, in the order of the skeleton."),
    ] = []
    mask: Mask | None = None
    gender: Gender | None = None
    age: Annotated[Number, Field(description="Apparent years.")] = None
    face_box: Annotated[list[Number], Field(description="x1, y1, x2, y2 in px.")] = []
    face: Annotated[
        list[float] | None,
        Field(description="Centre x, y, half width, half height of an ellipse in px."),
    ] = None
    embedding: list[float] = []
    track_id: Annotated[int | None, Field(description="Who it is, in clips.")] = None
    crop: Annotated[str, Field(description="JPEG in base64.")] = ""
    cut_out: Annotated[str, Field(description="PNG in base64.")] = ""


class Joints(BaseModel):
    name: str
    joints: list[str]


class People(BaseModel):
    """The people of one picture, best score first."""

    image_size: Annotated[list[int], Field(description="Height, width in px, upright.")]
    skeleton: Joints | None
    persons: list[Person]
    drawn: Annotated[str, Field(description="JPEG in base64.")] = ""
    faces_left: Annotated[
        int, Field(description="People whose face could not be placed, and so not be blurred.")
    ] = 0


class ProblemAnswer(BaseModel):
    """What is answered in place of people."""

    error: Annotated[str, Field(description="One word, for programs.")]
    message: Annotated[str, Field(description="What came, what was expected, what to do.")]


class Entry(BaseModel):
    name: str
    people: People | None = None
    problem: ProblemAnswer | None = None


class PictureList(BaseModel):
    """One entry per picture, in order."""

    pictures: list[Entry]


class ClipFrame(People):
    index: int
    seconds: float


class Clip(BaseModel):
    """The people of each frame that was looked at."""

    frame_rate: float
    identities: Annotated[int, Field(description="Different people.")]
    problems: Annotated[list[str], Field(description="Damage that was read over.")]
    frames: list[ClipFrame]


class ModelJoints(Joints):
    limbs: Annotated[list[list[int]], Field(description="Pairs of joints to draw lines between.")]
    sides: Annotated[list[str], Field(description="left, right or middle, of each joint.")]


class Model(BaseModel):
    """What is served, and within which limits."""

    name: str
    outputs: list[str]
    default_score: float
    skeleton: ModelJoints | None
    limits: dict[str, int]


EXAMPLE = {
    "image_size": [480, 640],
    "skeleton": {"name": "coco17", "joints": ["nose", "left_eye"]},
    "persons": [
        {
            "box": [102.4, 31.0, 260.9, 460.2],
            "score": 0.91,
            "keypoints": [[180.1, 60.2, 0.93], [187.4, 54.9, 0.9]],
            "gender": {"female": 0.97},
            "age": 31.5,
        }
    ],
}
PROBLEM_EXAMPLE = {
    "error": "kind",
    "message": "notes.txt: begins with b'Dear all', expected jpeg, png, webp, gif, bmp, tiff, "
    "avif; send the file itself, as multipart field 'file' or as the whole body",
}
_SOURCE = {
    "type": "object",
    "maxProperties": 1,
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "base64": {"type": "string", "contentEncoding": "base64"},
        "url": {"type": "string", "format": "uri", "description": "Where --allow-urls is set."},
    },
    "example": {"base64": "/9j/4AAQSkZJRgABAQAAAQABAAD..."},
}


def picture_body() -> dict[str, Any]:
    """One picture: in a form, as the body itself, or in JSON."""
    return _body(_form(False), "image/*", {"application/json": {"schema": _SOURCE}})


def pictures_body() -> dict[str, Any]:
    """Several pictures: in a form or in JSON."""
    several = {
        "type": "object",
        "required": ["pictures"],
        "additionalProperties": False,
        "properties": {"pictures": {"type": "array", "minItems": 1, "items": _SOURCE}},
    }
    return _body(_form(True), "", {"application/json": {"schema": several}})


def clip_body() -> dict[str, Any]:
    """One clip: in a form or as the body itself."""
    return _body(_form(False), "video/*", {})


def _form(several: bool) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "minItems": 1, "items": file}
    return {
        "schema": {
            "type": "object",
            "required": ["file"],
            "additionalProperties": False,
            "properties": {"file": files if several else file},
        }
    }


def _body(form: dict[str, Any], raw: str, more: dict[str, Any]) -> dict[str, Any]:
    content = {"multipart/form-data": form, **more}
    if raw:
        content[raw] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses as `FastAPI.get(responses=...)` takes them."""
    said = {
        400: "The body cannot be taken apart.",
        401: "No API key, or a wrong one.",
        403: "Addresses are not fetched here.",
        404: "There is nothing here.",
        405: "Not by this method.",
        408: "The body came too slowly.",
        413: "Too many bytes, files, pixels or frames.",
        415: "Another kind of file than is taken.",
        422: "A damaged picture or clip, or an option with a wrong value.",
        500: "A fault of the service.",
        503: "Too much is waiting; ask again after Retry-After seconds.",
        504: "It took too long.",
    }
    return {
        status: {
            "model": ProblemAnswer,
            "description": said[status],
            "content": {"application/json": {"example": PROBLEM_EXAMPLE}},
            **(
                {"headers": {"Retry-After": {"schema": {"type": "integer"}}}}
                if status == 503
                else {}
            ),
        }
        for status in statuses
    }
