"""The one door for pictures: whatever people hand over becomes RGB, height x width x 3, uint8."""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from humanquery.core.errors import ConfigError, ImageError
from humanquery.media.images import MAX_PIXELS, read_image, to_eight_bits, upright_rgb

LAYOUTS = ("hwc", "chw", "hw")
TAKEN = (
    "a path (str or Path, ~ and file:// too), a PIL image, a numpy array or torch tensor "
    "(h×w×3, h×w×4, h×w or 3×h×w; uint8, 16 bit, or floats), the bytes of a picture file, or a "
    "file opened for reading bytes"
)
URL_SECONDS = 30.0
"""that fetching one picture may take in all"""
WAIT_SECONDS = 10.0
"""of these without a byte"""
URL_BYTES = 50_000_000
CHANNELS = (1, 3, 4)
CHUNK = 1 << 16


def read_picture(
    source: Any,
    *,
    allow_urls: bool = False,
    layout: str | None = None,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of anything that `TAKEN` names, turned upright by its EXIF orientation.

    Files are read as `read_image` does. PIL images are taken in every mode, of an animation the
    first frame, transparency on white. Arrays and tensors are RGB: see `from_array` for types and
    for `layout`. http(s) addresses are fetched where `allow_urls` is set, within `URL_SECONDS` and
    `URL_BYTES`. What cannot be taken raises ImageError; `name` stands for it in messages.
    """
    if isinstance(source, str | os.PathLike):
        return _from_name(source, allow_urls, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pil(source, name or "PIL image")
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), name or "bytes", max_pixels)
    if _is_tensor(source):
        return from_array(_as_numpy(source), layout=layout, name=name or "tensor")
    if isinstance(source, np.ndarray):
        return from_array(source, layout=layout, name=name or "array")
    if callable(getattr(source, "read", None)):
        return _from_file(source, name, max_pixels)
    what = "None" if source is None else f"a {type(source).__name__}"
    hint = "; for several pictures use predict_many" if isinstance(source, list | tuple) else ""
    raise ImageError(f"{name or 'picture'}: got {what}, expected {TAKEN}{hint}")


def path_of(source: Any) -> Path | None:
    """The file that a picture comes from, with `~` and `file://` resolved; None where it comes from
    no file."""
    if not isinstance(source, str | os.PathLike):
        return None
    text = os.fspath(source)
    text = os.fsdecode(text) if isinstance(text, bytes) else text
    if text.startswith("file:"):
        from urllib.request import url2pathname

        return Path(url2pathname(urlsplit(text).path))
    if is_url(text):
        return None
    path = Path(text)
    if text.startswith("~") and not os.path.lexists(path):  # a file may really be called ~x.jpg
        return Path(os.path.expanduser(text))
    return path


def is_url(source: str | os.PathLike) -> bool:
    """Whether this is the address of something on a network rather than a file's name."""
    text = str(source)
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text)) and not text.startswith("file:")


def _from_name(source: str | os.PathLike, allow_urls: bool, max_pixels: int) -> np.ndarray:
    text = str(source)
    if not text:
        raise ImageError(f"picture: got an empty name, expected {TAKEN}")
    if not is_url(text):
        return read_image(path_of(source), max_pixels=max_pixels)
    if not text.startswith(("http://", "https://")):
        scheme = text.partition(":")[0]
        raise ImageError(
            f"{_public(text)}: pictures are not fetched by {scheme}; download it and give the path"
        )
    if not allow_urls:
        raise ImageError(
            f"{_public(text)}: is an address, and nothing is fetched from the network unasked; on "
            "the command line add --urls, in Python use "
            "humanquery.media.pictures.read_picture(address, allow_urls=True)"
        )
    return read_image(fetch(text), name=_public(text), max_pixels=max_pixels)


def fetch(address: str, *, seconds: float | int = URL_SECONDS, max_bytes: int = URL_BYTES) -> bytes:
    """What an http(s) address gives; ImageError after `seconds`, beyond `max_bytes`, or with the
    server's reason. Redirections lead to http(s) only."""
    import http.client
    from urllib import request
    from urllib.error import HTTPError

    # not build_opener: it would also follow redirections to ftp
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    label, deadline, content = _public(address), time.monotonic() + seconds, bytearray()
    try:
        asked = request.Request(address, headers={"User-Agent": "humanquery"})
        with opener.open(asked, timeout=min(seconds, WAIT_SECONDS)) as answer:
            while chunk := answer.read1(CHUNK):
                content += chunk
                if len(content) > max_bytes:
                    raise ImageError(
                        f"{label}: more than {max_bytes / 1e6:.0f} MB; download it yourself if it "
                        "really is a picture"
                    )
                if time.monotonic() > deadline:
                    raise TimeoutError
    except HTTPError as problem:
        raise ImageError(
            f"{label}: the server answers {problem.code} ({problem.reason}); check the address"
        ) from problem
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as problem:
        reason = getattr(problem, "reason", None) or problem
        if isinstance(reason, TimeoutError):  # of the server, of a wait for bytes, or of all
            raise ImageError(
                f"{label}: not complete in time (at most {seconds:g} s in all, "
                f"{min(seconds, WAIT_SECONDS):g} s without a byte; {len(content)} bytes came); "
                "download it and give the path"
            ) from problem
        raise ImageError(
            f"{label}: cannot be fetched ({reason}); check address and network"
        ) from problem
    return bytes(content)


def _public(address: str) -> str:
    """The address without a password."""
    return re.sub(r"://([^/@:]*):[^/@]*@", r"://\1:***@", address)


def _from_pil(picture: Image.Image, name: str) -> np.ndarray:
    if 0 in picture.size:
        raise ImageError(f"{name}: {picture.size[0]} x {picture.size[1]} px, expected at least 1")
    try:
        shown = picture.tell()
        try:
            picture.seek(0)
            return np.array(upright_rgb(picture))
        finally:
            if shown:
                picture.seek(shown)  # the caller's image stays at its frame
    except Exception as problem:  # a lazily opened file: Pillow's decoders raise whatever they like
        raise ImageError(
            f"{name}: a {picture.mode} picture of {picture.size[0]} x {picture.size[1]} that "
            f"cannot be decoded ({problem or type(problem).__name__}); is its file closed or "
            "damaged?"
        ) from problem


def _from_bytes(content: bytes, name: str, max_pixels: int) -> np.ndarray:
    try:
        return read_image(content, name=name, max_pixels=max_pixels)
    except ImageError as problem:
        if content and len(content) < 300 and os.path.exists(content.split(b"\0")[0]):
            raise ImageError(
                f"{name}: {content!r} is the name of a file; bytes are taken as the content of a "
                "picture, give names as str or Path"
            ) from problem
        raise


def _from_file(source: Any, name: str | None, max_pixels: int) -> np.ndarray:
    name = name or str(getattr(source, "name", None) or f"a {type(source).__name__}")
    try:
        if source.seekable():  # a buffer that was just written stands at its end
            place = source.tell()
            source.seek(0)
            content = source.read()
            source.seek(place)
        else:
            content = source.read()
    except UnicodeDecodeError:
        content = ""
    except (OSError, ValueError, AttributeError) as problem:
        raise ImageError(f"{name}: cannot be read ({problem}); expected {TAKEN}") from problem
    if not isinstance(content, bytes):
        raise ImageError(f"{name}: opened as text, expected bytes; open it with mode 'rb'")
    return read_image(content, name=name, max_pixels=max_pixels)


def from_array(
    values: np.ndarray, *, layout: str | None = None, name: str = "array"
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB uint8 of an array of grey (h×w), RGB or RGBA values; uint8 RGB comes back as it is.

    Types: uint8, bool, other whole numbers and floats, brought to 0..255 by `to_eight_bits`.
    `layout` is "hwc", "chw" or "hw"; by default the shape tells. Where first and last axis could
    both be channels ImageError asks for it, except for uint8 arrays h×w×3, the form that pictures
    have everywhere in this library.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}.")
    what = f"{name} of shape {tuple(values.shape)} and type {values.dtype}"
    if values.dtype.kind not in "buif":
        raise ImageError(f"{what}: no numbers of a picture, expected {TAKEN}")
    if 0 in values.shape:
        raise ImageError(f"{what}: is empty, expected at least one pixel")
    values = _channels_last(values, layout, what)
    if values.dtype.kind in "if":
        _refuse_normalised(values, what)
    if values.shape[2] == 4:
        opacity = to_eight_bits(values[:, :, 3])
        values = np.dstack([to_eight_bits(values[:, :, :3]), opacity])
        return np.array(upright_rgb(Image.fromarray(values)))
    values = to_eight_bits(values)
    return values if values.shape[2] == 3 else values.repeat(3, 2)


def _channels_last(values: np.ndarray, layout: str | None, what: str) -> np.ndarray:
    """h×w×1, h×w×3 or h×w×4."""
    layout = layout or _layout_of(values, what)
    fits = values.ndim == (2 if layout == "hw" else 3)
    if fits and layout != "hw":
        fits = values.shape[2 if layout == "hwc" else 0] in CHANNELS
    if not fits:
        batch = "; hand over one picture at a time" if values.ndim > 3 else ""
        raise ImageError(f"{what}: expected h×w×3, h×w×4, h×w or 3×h×w, RGB{batch}")
    if layout == "hw":
        return values[:, :, None]
    return values if layout == "hwc" else np.ascontiguousarray(values.transpose(1, 2, 0))


def _layout_of(values: np.ndarray, what: str) -> str:
    if values.ndim != 3:
        return "hw"
    first, last = values.shape[0], values.shape[2]
    if first == 3 and last in (3, 4):
        if values.dtype == np.uint8 and last == 3:
            return "hwc"
        raise ImageError(
            f"{what}: may be h×w×{last} or 3×h×w; say which with "
            "read_picture(picture, layout='hwc') or layout='chw'"
        )
    # one pixel high or wide: 1×w×3 is a line of a picture, not a grey picture three pixels wide
    return "hwc" if last in (3, 4) or (last == 1 and first not in (3, 4)) else "chw"


def _refuse_normalised(values: np.ndarray, what: str) -> None:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    # a little below 0 is what resampling overshoots
    if low < -0.1 * max(high, 0.0) - 1e-6:
        raise ImageError(
            f"{what}: values from {low:.3g} to {high:.3g}, expected 0..1, 0..255 or 0..65535; is "
            "it normalised by a mean? Hand over the picture before that"
        )


def _is_tensor(source: Any) -> bool:
    torch = sys.modules.get("torch")  # who holds a tensor has imported it
    return torch is not None and isinstance(source, getattr(torch, "Tensor", ()))


def _as_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
