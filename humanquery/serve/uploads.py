"""What clients send: bodies within their limits, and what kind of file they are."""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from humanquery.serve.config import ServiceConfig
from humanquery.serve.problems import Problem

PICTURE_KINDS = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")
CLIP_KINDS = ("mp4", "webm", "avi", "gif", "mpeg-ts")
FIELDS = ("file", "files")
"""names of multipart fields that hold pictures and clips"""
NAME_LENGTH = 200


@dataclass(frozen=True)
class Upload:
    """One file of a body, or an address that stands for one."""

    name: str
    """as the client calls it: only ever shown, never opened"""
    content: bytes = b""
    url: str = ""


def kind_of(content: bytes) -> str | None:
    """What sort of file this is, by its first bytes; None for anything else.

    Readers are chosen by this alone: what opens other files (playlists, scene descriptions) or
    starts other programs (PostScript) has no kind, and so reaches neither Pillow nor FFmpeg.
    """
    head = content[:16]
    for start, kind in (
        (b"\xff\xd8\xff", "jpeg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"BM", "bmp"),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"\x1a\x45\xdf\xa3", "webm"),
    ):
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        brands = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"mif1": "heic"}
        return brands.get(head[8:12], "mp4")
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free"):  # QuickTime of old cameras
        return "mp4"
    if content[:1] == b"G" and content[188:189] == b"G" and len(content) >= 376:
        return "mpeg-ts"
    return None


def check_kind(upload: Upload, kinds: tuple[str, ...]) -> str:
    """The kind of a file; Problem 400 for one without bytes, 415 for one not among `kinds`."""
    if not upload.content:
        raise Problem(400, "body", f"{upload.name}: no bytes at all; expected a file")
    kind = kind_of(upload.content)
    if kind not in kinds:
        other = f"is {kind}" if kind else f"begins with {upload.content[:12]!r}"
        raise Problem(
            415,
            "kind",
            f"{upload.name}: {other}, expected {', '.join(kinds)}; send the file itself, as "
            "multipart field 'file' or as the whole body",
        )
    return kind


class Body:
    """Bytes of one request's body; given back at the end of the `with` block."""

    def __init__(self, bodies: "Bodies"):
        self._all, self.bytes = bodies, 0

    def add(self, count: int) -> None:
        """Counts bytes that came. Problem 503 where all bodies together have too many."""
        self._all.bytes += count
        self.bytes += count
        if self._all.bytes > self._all.limit:
            raise Problem(
                503,
                "busy",
                f"more than {self._all.limit / 1e6:g} MB are waiting already; ask again in a "
                "moment",
                retry_after=2,
            )

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *_: object) -> None:
        self._all.bytes -= self.bytes


class Bodies:
    """Bytes of all bodies that are not answered yet. Counted as they come, not as they are
    announced: a client that sends nothing takes no room."""

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0

    def body(self) -> Body:
        return Body(self)


async def read_uploads(
    request: Request, config: ServiceConfig, counted: Body, most: int = 1
) -> list[Upload]:
    """The files of a body: of a multipart form (fields `file`), of JSON (`{"base64": ...}`,
    `{"url": ...}`, or a list of them under "pictures"), or the body as it is.

    Raises Problem: 400 for a body that cannot be taken apart, 403 for addresses where they are not
    allowed, 408 for one that comes too slowly, 413 for too many bytes or files, 415 for another
    kind of body.
    """
    said, options = parse_options_header(request.headers.get("content-type", ""))
    kind = said.decode("latin-1").lower()
    stream = _limited(request, config, counted)
    if kind == "multipart/form-data":
        if not options.get(b"boundary"):
            raise Problem(400, "body", "multipart/form-data without a boundary; let your client "
                          "library set the Content-Type")  # fmt: skip
        uploads = await _from_form(request, stream, most)
    elif kind == "application/json":
        body = b"".join([chunk async for chunk in stream])
        uploads = _from_json(body, config, most)
    elif kind.startswith(("image/", "video/")) or kind in ("application/octet-stream", ""):
        uploads = [Upload("body", b"".join([chunk async for chunk in stream]))]
    else:
        raise Problem(
            415,
            "body",
            f"Content-Type {kind!r}: expected multipart/form-data with a field 'file', "
            "application/json, image/*, video/* or application/octet-stream",
        )
    return uploads


async def _limited(request: Request, config: ServiceConfig, counted: Body) -> AsyncIterator[bytes]:
    """The body in pieces, as long as it keeps its limits."""
    too_many = Problem(
        413,
        "bytes",
        f"the body has more than {config.max_bytes / 1e6:g} MB, the most that is taken; send a "
        "smaller picture or a shorter clip",
    )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > config.max_bytes:
        raise too_many
    until, came, pieces = time.monotonic() + config.upload_seconds, 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(until - time.monotonic()):
                piece = await anext(pieces, b"")
        except TimeoutError:
            raise Problem(
                408,
                "slow",
                f"the body was not complete after {config.upload_seconds:g} s ({came} bytes "
                "came); send a smaller picture, or over a faster line",
            ) from None
        if not piece:
            return
        came += len(piece)
        if came > config.max_bytes:
            raise too_many
        counted.add(len(piece))
        yield piece


async def _from_form(request: Request, stream: AsyncIterator[bytes], most: int) -> list[Upload]:
    parser = MultiPartParser(request.headers, stream, max_files=most, max_fields=most)
    try:
        form = await parser.parse()
    except MultiPartException as problem:
        if "Too many" in problem.message:
            raise _too_many(most) from problem
        raise Problem(
            400, "body", f"the multipart form cannot be read: {problem.message}"
        ) from problem
    except ValueError as problem:  # undecodable headers of a part
        raise Problem(400, "body", f"the multipart form cannot be read: {problem}") from problem
    try:
        items = form.multi_items()
        files = [(name, value) for name, value in items if isinstance(value, UploadFile)]
        wrong = sorted({name for name, _ in items} - set(FIELDS))
        if wrong or len(files) < len(items) or not files:
            came = f"came with {', '.join(map(repr, wrong))}" if wrong else "has no file"
            raise Problem(
                400,
                "body",
                f"the form {came}, expected files in the field 'file' (curl -F file=@photo.jpg); "
                "options belong into the address (?score=0.5)",
            )
        return [
            Upload((file.filename or "file")[:NAME_LENGTH], await file.read()) for _, file in files
        ]
    finally:
        await form.close()


def _from_json(body: bytes, config: ServiceConfig, most: int) -> list[Upload]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise Problem(400, "body", f"the body is no JSON: {problem}") from problem
    entries = said["pictures"] if isinstance(said, dict) and set(said) == {"pictures"} else [said]
    if not isinstance(entries, list) or not entries:
        raise _no_entry()
    if len(entries) > most:
        raise _too_many(most)
    return [_from_entry(entry, f"picture {i}", config) for i, entry in enumerate(entries)]


def _from_entry(entry: Any, name: str, config: ServiceConfig) -> Upload:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise _no_entry()
    ((key, value),) = entry.items()
    if key not in ("url", "base64") or not isinstance(value, str):
        raise _no_entry()
    if key == "url":
        if not config.allow_urls:
            raise Problem(
                403,
                "urls",
                "this service fetches nothing from addresses; send the picture itself (who runs "
                "the service can allow it with --allow-urls)",
            )
        if not value.startswith(("http://", "https://")):
            raise Problem(422, "urls", f"{value[:NAME_LENGTH]}: expected an http(s) address")
        return Upload(value[:NAME_LENGTH], url=value)
    try:
        return Upload(name, base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError) as problem:
        raise Problem(422, "body", f"{name}: 'base64' cannot be decoded: {problem}") from problem


def _no_entry() -> Problem:
    return Problem(
        422,
        "body",
        'the JSON is something else than {"base64": "..."}, {"url": "..."}, or a list of these '
        'as {"pictures": [...]}',
    )


def _too_many(most: int) -> Problem:
    files = f"{most} files" if most > 1 else "one file"
    return Problem(413, "files", f"more than {files} in one request; send them one after another")
