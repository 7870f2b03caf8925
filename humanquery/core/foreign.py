"""JSON and text that other tools wrote: the one place that reads it, and getters that refuse what
cannot be meant.

Every getter takes the value and its name, gives the plain Python value, and raises AnnotationError
with the name, what came and what was expected; `located` adds the file and the entry.
"""

import json
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from humanquery.core.errors import AnnotationError

Number = int | float

LARGEST_NUMBER = 1e12
"""no pixel, area, score or age lies beyond; float32 still holds it"""
LARGEST_INTEGER = 2**63 - 1
MOST_SHOWN = 200
"""characters of a value in a message"""
_REAL = (int, float)
_KINDS = {dict: "an object", list: "a list", str: "text", type(None): "null"}


def shown(value: Any) -> str:
    """A short form of a value for messages, however long or deeply nested it is."""
    short = reprlib.Repr()
    short.maxstring, short.maxother, short.maxlong, short.maxlist = 80, 80, 40, 8
    words = "null" if value is None else short.repr(value)
    return words if len(words) <= MOST_SHOWN else words[:MOST_SHOWN] + "..."


def kind_of(value: Any) -> str:
    """The kind of a JSON value in words: 'a list', 'null', 'a number' ..."""
    return _KINDS.get(type(value), "a number")


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts `where` (file and entry) in front of every AnnotationError that is raised inside."""
    try:
        yield
    except AnnotationError as problem:
        raise AnnotationError(f"{where}: {problem}") from problem


def read_text(path: str | Path, expected: str) -> str:
    """The text of a file: UTF-8 with or without byte order mark, or UTF-16 with one.

    `expected` says in messages what the file should be. A missing file, a folder, or bytes that
    are no text raise AnnotationError.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the name
        reason = getattr(problem, "strerror", None) or problem
        raise AnnotationError(
            f"{path}: cannot be read ({reason}); expected {expected}"
        ) from problem
    marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as problem:
        raise AnnotationError(
            f"{path}: not text ({problem.reason}); expected {expected}"
        ) from problem


def read_json(path: str | Path, expected: str, kind: type | tuple[type, ...] = dict) -> Any:
    """The JSON content of a file, a `kind` (dict, list or both) at the top; else
    AnnotationError."""
    content = parse_json(read_text(path, expected), str(path), expected)
    if not isinstance(content, kind):
        kinds = " or ".join(_KINDS[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise AnnotationError(
            f"{path}: holds {kind_of(content)} of JSON, expected {kinds}: {expected}"
        )
    return content


def parse_json(content: str, where: str, expected: str) -> Any:
    """As `json.loads`; text that is not JSON or nested too deeply raises AnnotationError."""
    try:
        return json.loads(content)
    except RecursionError as problem:
        raise AnnotationError(f"{where}: nested too deeply; expected {expected}") from problem
    except ValueError as problem:
        raise AnnotationError(f"{where}: not JSON ({problem}); expected {expected}") from problem


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a label may have; true and false are not."""
    # NaN fails both comparisons; whole numbers beyond 1e308 compare without overflow
    return type(value) in _REAL and -LARGEST_NUMBER <= value <= LARGEST_NUMBER


def number(
    value: Any, name: str, *, low: Number = -LARGEST_NUMBER, high: Number = LARGEST_NUMBER
) -> Number:
    """A finite number from `low` to `high`."""
    if not is_number(value) or not low <= value <= high:
        bounds = "" if (low, high) == (-LARGEST_NUMBER, LARGEST_NUMBER) else f" {low:g} to {high:g}"
        raise AnnotationError(f"'{name}' is {shown(value)}, expected a finite number{bounds}")
    return value


def integer(
    value: Any, name: str, *, low: int = -LARGEST_INTEGER, high: int = LARGEST_INTEGER
) -> int:
    """A whole number from `low` to `high`; 7.0 and "7" are read as 7, true and false are not."""
    whole = value
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() and len(value) <= 20:
        whole = _int_or_none(value.strip())
    elif isinstance(value, float) and value.is_integer():
        whole = int(value)
    if type(whole) is not int or not low <= whole <= high:
        at_least = "" if low == -LARGEST_INTEGER else f" of at least {low}"
        raise AnnotationError(f"'{name}' is {shown(value)}, expected a whole number{at_least}")
    return whole


def _int_or_none(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # '+-7'
        return None


def text(value: Any, name: str) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise AnnotationError(f"'{name}' is {shown(value)}, expected text")
    return value


def items(value: Any, name: str, expected: str = "a list") -> list[Any]:
    """A list of anything."""
    if not isinstance(value, list):
        raise AnnotationError(f"'{name}' is {shown(value)}, expected {expected}")
    return value


def mapping(value: Any, name: str, expected: str = "an object") -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise AnnotationError(f"'{name}' is {shown(value)}, expected {expected}")
    return value


def numbers(value: Any, name: str, expected: str, *, count: int | None = None) -> list[Number]:
    """A flat list of finite numbers, `count` of them where given; `expected` says what they are."""
    flat = items(value, name, expected)
    if count is not None and len(flat) != count:
        raise AnnotationError(f"'{name}' has {len(flat)} numbers, expected {count} ({expected})")
    if not all(map(is_number, flat)):
        raise AnnotationError(
            f"'{name}' {shown(flat)} holds NaN, infinity or no number, expected {expected}"
        )
    return flat


def box(value: Any, name: str, expected: str = "[x, y, width, height] in pixels") -> list[Number]:
    """An xywh box: four finite numbers, no negative side."""
    if not isinstance(value, list) or len(value) != 4:
        raise AnnotationError(f"'{name}' is {shown(value)}, expected {expected}")
    sides = numbers(value, name, expected)
    if sides[2] < 0 or sides[3] < 0:
        raise AnnotationError(
            f"'{name}' {sides} has a negative width or height, expected {expected}; "
            "are these corners in the wrong order?"
        )
    return sides


def flag(value: Any, name: str) -> bool:
    """True or false, also as 1 or 0; null is false."""
    if value is None:
        return False
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise AnnotationError(f"'{name}' is {shown(value)}, expected 0 or 1")
    return bool(value)
