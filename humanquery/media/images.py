"""Pictures in and out: every readable file becomes RGB uint8, upright; every other raises
ImageError with its name."""

import io
import threading
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from humanquery.core.errors import ImageError
from humanquery.core.size import Size

MAX_PIXELS = 200_000_000

_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_PILLOW_LIMIT = (
    threading.Lock()
)  # Pillow's own bomb limit is one global number; ours is an argument


def read_image(
    source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a picture file (or of a file's bytes), turned upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit pictures are converted (16 bit by the range that is used, see
    `to_eight_bits`), transparency lies on white, of an animation the first frame is taken.
    Missing, empty, truncated and
    non-picture files, and pictures of more than `max_pixels` (told from the header, before anything
    is decoded), raise ImageError. `name` stands for bytes in messages.
    """
    label = name or ("picture" if isinstance(source, bytes) else str(source))
    with _opened(source, label, max_pixels) as picture:
        try:
            picture.seek(0)
            return np.array(upright_rgb(_deep_colour(picture, source) or picture))
        except Exception as problem:  # Pillow's decoders raise whatever they like on broken data
            raise ImageError(
                f"{label}: a {picture.format} picture of {picture.size[0]} x {picture.size[1]} "
                f"that cannot be decoded "
                f"({problem or type(problem).__name__}); the file is truncated or damaged, fetch "
                f"it again"
            ) from problem


def read_size(
    source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Size:
    """(height, width) of the upright picture, from the header (a PNG may be decoded to find its
    EXIF); raises as `read_image`."""
    label = name or ("picture" if isinstance(source, bytes) else str(source))
    with _opened(source, label, max_pixels) as picture:
        width, height = picture.size
        try:
            sideways = picture.getexif().get(0x0112, 1) >= 5
        except Exception as problem:  # for a PNG, Pillow decodes the whole picture to find its EXIF
            raise ImageError(
                f"{label}: a {picture.format} picture of {width} x {height} that cannot be decoded "
                f"({problem or type(problem).__name__}); the file is truncated or damaged, fetch "
                f"it again"
            ) from problem
    return (width, height) if sideways else (height, width)


def write_image(path: str | Path, image: UInt8[np.ndarray, "h w 3"], *, quality: int = 92) -> None:
    """Writes RGB as the kind its suffix says (png, jpg, webp, ...); makes the folder. An unknown
    suffix raises ImageError."""
    path = Path(path)
    kinds = Image.registered_extensions()
    if kinds.get(path.suffix.lower()) not in Image.SAVE:
        raise ImageError(
            f"{path}: cannot write a picture of kind {path.suffix!r}; use .png, .jpg or .webp"
        )
    if not image.size:
        raise ImageError(
            f"{path}: got an empty picture of shape {image.shape}, expected at least one pixel"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {} if path.suffix.lower() == ".png" else {"quality": quality}
    Image.fromarray(np.ascontiguousarray(image)).save(path, **options)


def _opened(source: str | Path | bytes, label: str, max_pixels: int) -> Image.Image:
    """The picture with only its header read, or ImageError."""
    _refuse_empty(source, label)
    with _PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        except UnidentifiedImageError as problem:
            raise ImageError(
                f"{label}: not a picture (it begins with {_first_bytes(source)!r}); expected JPEG, "
                f"PNG, WebP, TIFF, GIF "
                "or BMP. Convert it, or remove it from the list"
            ) from problem
        except (
            Exception
        ) as problem:  # a broken header raises different things in each of Pillow's readers
            raise ImageError(
                f"{label}: the header of this picture cannot be read ({problem}); the file is "
                f"damaged, fetch it again"
            ) from problem
        finally:
            Image.MAX_IMAGE_PIXELS = before
    width, height = picture.size
    if width * height > max_pixels:
        picture.close()
        raise ImageError(
            f"{label}: {width} x {height} is {width * height / 1e6:.0f} million pixels, at most "
            f"{max_pixels / 1e6:.0f} "
            "million are read; scale it down, or raise max_pixels if you trust the file"
        )
    return picture


def _refuse_empty(source: str | Path | bytes, label: str) -> None:
    if isinstance(source, bytes):
        if not source:
            raise ImageError(f"{label}: no bytes at all; expected a picture")
        return
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{label}: a folder, expected one picture file")
        if not path.exists():
            raise ImageError(f"{label}: no such file; check the path and the images folder")
        with path.open("rb") as file:
            if not file.read(1):
                raise ImageError(f"{label}: the file is empty (0 bytes); fetch it again")
    except OSError as problem:
        raise ImageError(
            f"{label}: cannot be opened ({problem.strerror}); check its permissions"
        ) from problem


def _first_bytes(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:12]
    with open(source, "rb") as file:
        return file.read(12)


def _deep_colour(picture: Image.Image, source: str | Path | bytes) -> Image.Image | None:
    """A colour picture of 16 bits per channel at 8 bits by the range that it uses; None for others.

    Pillow keeps only the upper 8 bits of such files, which turns 10- and 12-bit data black.
    """
    tile = picture.tile[0] if picture.tile else None
    raw_mode = tile[3] if tile is not None else None
    raw_mode = raw_mode if isinstance(raw_mode, str) else str((raw_mode or ("",))[0])
    if picture.mode not in ("RGB", "RGBA", "LA") or ";16" not in raw_mode:
        return None
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    colour = to_eight_bits(values[:, :, 2::-1])
    if values.shape[2] == 4:  # transparency has its own range, which is always whole
        colour = np.dstack([colour, (values[:, :, 3] >> 8).astype(np.uint8)])
    deep = Image.fromarray(np.ascontiguousarray(colour))
    deep.info["exif"] = picture.getexif().tobytes()
    return deep


def upright_rgb(picture: Image.Image) -> Image.Image:
    """The current frame as RGB, turned by its EXIF orientation; transparency lies on white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in _DEEP_MODES:
        return Image.fromarray(to_eight_bits(np.asarray(picture))).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def to_eight_bits(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Brightness of any type as 0..255, by the range that the values really use.

    Whole numbers: the smallest of 8, 10, 12, 14 and 16 bits that holds them all, since 10- and
    12-bit cameras write 16-bit files. Floats: 0..1 (up to 2 for what resampling overshoots), else
    0..255, 0..65535, or the largest value. NaN and negative values are black.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    whole = np.issubdtype(values.dtype, np.integer)
    values = values.astype(np.float32)
    finite = values[np.isfinite(values)] if not whole else values
    reached = float(finite.max(initial=0))
    values = np.nan_to_num(values, nan=0.0, posinf=reached, neginf=0.0)
    ranges = (255.0, 1023.0, 4095.0, 16383.0, 65535.0) if whole else (2.0, 255.0, 65535.0)
    full = next((most for most in ranges if reached <= most), reached)
    full = 1.0 if full == 2.0 else full
    return (values.clip(0) * (255.0 / full) + 0.5).clip(0, 255).astype(np.uint8)
