import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from humanquery.core.errors import ImageError
from humanquery.media.images import read_image, read_size, write_image


def stripes(h=20, w=30):
    image = np.zeros((h, w, 3), np.uint8)
    image[:, : w // 2] = (200, 40, 10)
    image[: h // 4] = (0, 90, 220)
    return image


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff", "gif"])
def test_written_pictures_come_back(tmp_path, kind):
    path = tmp_path / f"new folder/a.{kind}"
    if kind in ("png", "bmp", "tiff"):
        write_image(path, stripes())
        assert np.array_equal(read_image(path), stripes())
    else:
        write_image(path, stripes(), quality=100)
        assert np.abs(read_image(path).astype(int) - stripes())[:, 2:12].mean() < 12
    assert read_size(path) == (20, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_pixel_kind_becomes_rgb(tmp_path, mode):
    grey = Image.fromarray(np.full((6, 9), 255, np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(np.full((6, 9), 65535, np.uint16))
    elif mode in ("I", "F"):
        picture = Image.fromarray(
            np.full((6, 9), {"I": 65535, "F": 1.0}[mode], {"I": np.int32, "F": np.float32}[mode])
        )
    else:
        picture = (
            grey.convert("RGB").convert(mode) if mode not in ("1", "L") else grey.convert(mode)
        )
    path = tmp_path / ("a.png" if mode in ("1", "L", "LA", "P", "RGBA", "I;16") else "a.tiff")
    picture.save(path)
    image = read_image(path)
    assert image.shape == (6, 9, 3) and image.dtype == np.uint8
    assert (image >= 250).all()


def test_sixteen_bits_are_halved_in_depth_not_cut(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert (
        np.abs(read_image(tmp_path / "deep.png")[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    )
    cv2.imwrite(str(tmp_path / "colour.png"), np.full((4, 5, 3), (0, 0, 65535), np.uint16))
    assert read_image(tmp_path / "colour.png")[0, 0].tolist() == [255, 0, 0]


def test_transparency_lies_on_white(tmp_path):
    layer = np.zeros((2, 2, 4), np.uint8)
    layer[0, 0] = (10, 20, 30, 255)
    Image.fromarray(layer).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [
        [[10, 20, 30], [255] * 3],
        [[255] * 3, [255] * 3],
    ]


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], duration=50)
    r, g, b = read_image(tmp_path / f"a.{kind}")[4, 4]
    assert r > 200 and g < 50 and b < 50


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    upright = stripes()
    x = np.transpose(upright, (1, 0, 2))
    stored = {  # what the first stored row and column show: EXIF 2.3, tag 274
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: x, 6: x[::-1], 7: x[::-1, ::-1], 8: x[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert read_size(tmp_path / "a.png") == (20, 30)
    assert read_image(tmp_path / "a.png").shape == (20, 30, 3)
    assert np.array_equal(read_image(tmp_path / "a.png"), upright)


@pytest.mark.parametrize("size", [(1, 1), (20, 10000), (10000, 20)])
def test_extreme_shapes_are_read(tmp_path, size):
    write_image(tmp_path / "a.jpg", np.full((*size, 3), 128, np.uint8))
    assert read_image(tmp_path / "a.jpg").shape == (*size, 3)


def test_bytes_are_read_like_files():
    memory = io.BytesIO()
    Image.fromarray(stripes()).save(memory, "PNG")
    assert np.array_equal(read_image(memory.getvalue()), stripes())
    with pytest.raises(ImageError, match="upload 3: no bytes"):
        read_image(b"", name="upload 3")


def test_truncated_files_say_so(tmp_path):
    for kind in ("jpg", "png", "webp"):
        path = tmp_path / f"whole.{kind}"
        write_image(path, np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8))
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(
            ImageError, match=rf"cut\.{kind}.*(truncated or damaged|damaged, fetch it again)"
        ):
            read_image(cut)


def test_things_that_are_not_pictures_say_what_they_are(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello, I am a text")
    (tmp_path / "head.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(
        ImageError, match=r"text\.jpg: not a picture \(it begins with b'hello.*Convert it"
    ):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match=r"missing\.jpg: no such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"head\.png"):
        read_image(tmp_path / "head.png")


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb(60000, 60000))
    tracemalloc.start()
    with pytest.raises(
        ImageError, match=r"bomb\.png: 60000 x 60000 is 3600 million pixels, at most 200 million"
    ):
        read_image(tmp_path / "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    with pytest.raises(ImageError, match="max_pixels"):
        read_size(tmp_path / "bomb.png", max_pixels=10)


def test_the_limit_is_an_argument_and_pillow_keeps_its_own(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    write_image(tmp_path / "a.png", stripes())
    with pytest.raises(ImageError, match="20"):
        read_image(tmp_path / "a.png", max_pixels=599)
    assert read_image(tmp_path / "a.png", max_pixels=600).shape == (20, 30, 3)
    assert before == Image.MAX_IMAGE_PIXELS


def test_writing_an_unknown_kind_or_nothing_says_what_to_use(tmp_path):
    with pytest.raises(ImageError, match=r"a\.xyz: cannot write.*\.png"):
        write_image(tmp_path / "a.xyz", stripes())
    with pytest.raises(ImageError, match="empty picture"):
        write_image(tmp_path / "a.png", np.zeros((0, 4, 3), np.uint8))


def test_the_size_of_a_truncated_png_is_an_image_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    write_image(tmp_path / "cut.png", noise)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    with pytest.raises(
        ImageError, match="cut.png: a PNG picture of 100 x 120 that cannot be decoded"
    ):
        read_size(tmp_path / "cut.png")
