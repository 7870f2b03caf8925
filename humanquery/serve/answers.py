"""People as clients get them: JSON of a picture, and what was asked for with it."""

import base64
import io
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from humanquery.blur import blur_faces, face_ellipses
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask
from humanquery.cut_out import crop, cut_out
from humanquery.draw import draw
from humanquery.predict.base import BasePredictor
from humanquery.serve.batcher import Seen

JPEG_QUALITY = 90
LEAST_SCORE = 0.05
"""that may be asked for: at 0 every query is a person, and a picture costs many times as much"""


class Asked(BaseModel):
    """What may stand in the address of a request, behind the `?`. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid")

    score: Annotated[
        float | None,
        Field(
            ge=LEAST_SCORE, le=1, description="Leave out people below this; default: the model's."
        ),
    ] = None
    tasks: Annotated[
        str | None,
        Field(
            max_length=200,
            description="Comma-separated: box, mask, keypoints, gender, age ...; default: all "
            "that the model has, masks only where they are asked for.",
        ),
    ] = None
    attributes: Annotated[bool, Field(description="With apparent gender and age.")] = True


class Options(Asked):
    """What comes with each person."""

    masks: Annotated[
        bool, Field(description="With a mask of each person as COCO run lengths (RLE).")
    ] = False
    embeddings: Annotated[
        bool, Field(description="With the human query of each person; compare by cosine.")
    ] = False
    faces: Annotated[
        bool,
        Field(
            description="With an ellipse around each face that can be placed, as [centre x, y, "
            "half width, half height] in px."
        ),
    ] = False


class PictureOptions(Options):
    """What only pictures have."""

    drawn: Annotated[
        bool, Field(description="With the picture, people drawn on it (JPEG in base64).")
    ] = False
    crops: Annotated[bool, Field(description="With each person cut out as JPEG in base64.")] = False
    cut_outs: Annotated[
        bool, Field(description="With each person on transparent ground as PNG in base64.")
    ] = False
    blur_faces: Annotated[
        bool,
        Field(
            description="Faces are made unrecognisable in `drawn`, `crop` and `cut_out`, where "
            "nose, eyes or ears are found."
        ),
    ] = False


class ClipOptions(Options):
    """What only clips have."""

    every: Annotated[int, Field(ge=1, le=100, description="Look at every n-th frame.")] = 1


class DrawnOptions(Asked):
    """What only drawn pictures have."""

    blur_faces: Annotated[bool, Field(description="Make faces unrecognisable.")] = False


def ask_of(predictor: BasePredictor, options: Asked) -> Ask:
    """What the model is asked for; ConfigError for an unknown task, or for masks of a model that
    has none."""
    needs_masks = getattr(options, "masks", False) or getattr(options, "cut_outs", False)
    if isinstance(options, DrawnOptions) or getattr(options, "drawn", False):
        needs_masks |= options.tasks is None and "masks" in predictor.outputs
    if options.tasks is None:
        tasks = [name for name in predictor.outputs if name != "masks"]
    else:
        tasks = [name.strip() for name in options.tasks.split(",") if name.strip()]
    if needs_masks:
        tasks.append("masks")
    return predictor.ask(options.score, tasks, options.attributes)


def people_json(people: Persons, options: Options) -> dict[str, Any]:
    """`Persons.to_json`, less masks that were not asked for, with what was."""
    shown = people if options.masks or people.masks is None else people.replace(masks=None)
    answer = shown.to_json()
    faces = face_ellipses(people) if options.faces else [None] * len(people)
    for i, person in enumerate(answer["persons"]):
        if options.embeddings and people.embeddings is not None:
            person["embedding"] = [round(v, 6) for v in people.embeddings[i].tolist()]
        if options.faces:
            face = faces[i]
            person["face"] = None if face is None else [round(v, 1) for v in face]
    return answer


def picture_json(seen: Seen, options: PictureOptions) -> dict[str, Any]:
    """The people of a picture with the pictures that were asked for; ConfigError where faces
    cannot be blurred or masks are missing."""
    answer, people, image = people_json(seen.people, options), seen.people, seen.image
    wanted = options.drawn or options.crops or options.cut_outs
    if options.blur_faces and wanted:
        image, answer["faces_left"] = blur_faces(image, people)
    if options.drawn:
        answer["drawn"] = _text(jpeg(draw(image, people)))
    for i, person in enumerate(answer["persons"]):
        if options.crops:
            person["crop"] = _text(jpeg(crop(image, people, i)))
        if options.cut_outs:
            person["cut_out"] = _text(_encoded(cut_out(image, people, i), "PNG"))
    return answer


def drawn_jpeg(seen: Seen, options: DrawnOptions) -> bytes:
    """The picture with its people drawn on it; ConfigError where faces cannot be blurred."""
    image = blur_faces(seen.image, seen.people)[0] if options.blur_faces else seen.image
    return jpeg(draw(image, seen.people))


def jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    return _encoded(image, "JPEG", quality=JPEG_QUALITY)


def _encoded(image: np.ndarray, kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    Image.fromarray(image).save(written, kind, **options)
    return written.getvalue()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def model_json(predictor: BasePredictor, skeleton: Skeleton | None) -> dict[str, Any]:
    """What a client may want to know about the model before it asks."""
    joints = None
    if skeleton is not None:
        joints = {
            "name": skeleton.name,
            "joints": list(skeleton.joints),
            "limbs": [list(limb) for limb in skeleton.limbs],
            "sides": [skeleton.side(k) for k in range(len(skeleton))],
        }
    return {
        "name": str(predictor.card.get("name", "")),
        "outputs": sorted(predictor.outputs),
        "default_score": predictor.default_score,
        "skeleton": joints,
    }
