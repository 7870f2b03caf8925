"""What people hand over as a picture."""

import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from humanquery.core.errors import ConfigError, ImageError
from humanquery.media import pictures
from humanquery.media.images import read_image, write_image
from humanquery.media.pictures import fetch, path_of, read_picture


def rainbow(height=6, width=9):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image=None) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(rainbow() if image is None else image).save(memory, "PNG")
    return memory.getvalue()


def same(found, expected=None, tolerance=1):
    expected = rainbow() if expected is None else expected
    assert found.dtype == np.uint8 and found.shape == expected.shape
    return np.abs(found.astype(int) - expected).max() <= tolerance


def test_paths_with_home_and_file_addresses_are_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image(tmp_path / "my photo.png", rainbow())
    address = (tmp_path / "my photo.png").as_uri()
    for source in (tmp_path / "my photo.png", "~/my photo.png", address):
        assert same(read_picture(source)) and path_of(source) == tmp_path / "my photo.png"
    assert path_of(rainbow()) is None and path_of("https://host/a.jpg") is None
    with pytest.raises(ImageError, match="gone.jpg: no such file"):
        read_picture("~/gone.jpg")
    with pytest.raises(ImageError, match="empty name"):
        read_picture("")
    with pytest.raises(ImageError, match="no such file"):
        read_picture("a\0b.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_picture_of_a_phone_is_seen_like_its_file(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rainbow()).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        assert same(read_picture(opened), read_image(tmp_path / "a.png"), tolerance=0)


def test_a_pil_animation_is_seen_at_its_first_frame_and_stays_where_it_was(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as opened:
        opened.seek(2)
        assert read_picture(opened)[4, 4].tolist() == [255, 0, 0] and opened.tell() == 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_every_mode_of_pil_is_taken(mode):
    white = Image.fromarray(np.full((6, 9), 255, np.uint8))
    deep = {"I": (np.int32, 65535), "F": (np.float32, 1.0), "I;16": (np.uint16, 65535)}
    if mode in deep:
        kind, value = deep[mode]
        white = Image.fromarray(np.full((6, 9), value, kind))
    else:
        white = white.convert("RGB").convert(mode)
    assert white.mode == mode and (read_picture(white) >= 250).all()


def test_a_closed_pil_picture_says_so(tmp_path):
    write_image(tmp_path / "a.png", rainbow())
    opened = Image.open(tmp_path / "a.png")
    opened.close()
    with pytest.raises(ImageError, match="is its file closed or damaged"):
        read_picture(opened)


def test_arrays_and_tensors_of_every_type_and_layout_give_the_same_picture():
    image = rainbow()
    whole = image.astype(np.float64) / 255
    wide = image.astype(np.uint16) * 257
    assert wide.max() > 16383
    for found in (image, whole, whole.astype(np.float32), image.astype(np.float32), wide):
        assert same(read_picture(found))
        assert same(read_picture(found.transpose(2, 0, 1)))
    for tensor in (torch.from_numpy(image), torch.from_numpy(whole).requires_grad_()):
        assert same(read_picture(tensor)) and same(read_picture(tensor.permute(2, 0, 1)))
    assert same(read_picture(torch.from_numpy(whole).bfloat16()), tolerance=2)
    grey = image[:, :, 0]
    for found in (grey, grey[:, :, None], grey[None], torch.from_numpy(grey)):
        assert same(read_picture(found), grey[:, :, None].repeat(3, 2))
    assert read_picture(np.eye(5, dtype=bool))[0, 0].tolist() == [255] * 3


def test_a_fourth_channel_is_transparency_on_white():
    layer = np.dstack([rainbow(), np.full((6, 9), 255, np.uint8)])
    layer[0, 0, 3] = 0
    found = read_picture(layer)
    assert found[0, 0].tolist() == [255] * 3 and same(found[1:], rainbow()[1:])


def test_shapes_that_can_be_two_things_ask_for_the_layout():
    both = np.zeros((3, 7, 3), np.float32)
    both[0] = 1
    with pytest.raises(ImageError, match="may be h×w×3 or 3×h×w; say which .*layout='hwc'"):
        read_picture(both)
    assert read_picture(both, layout="hwc").shape == (3, 7, 3)
    assert read_picture(both, layout="chw").shape == (7, 3, 3)
    assert read_picture(both.astype(np.uint8)).shape == (3, 7, 3)  # the library's own form
    assert read_picture(np.zeros((1, 7, 3), np.uint8)).shape == (1, 7, 3)
    assert read_picture(np.zeros((3, 7, 1), np.uint8)).shape == (7, 1, 3)
    with pytest.raises(ConfigError, match="layout 'bgr': expected one of hwc, chw, hw"):
        read_picture(both, layout="bgr")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_data_of_fewer_bits_in_files_of_sixteen_are_not_black(tmp_path, bits):
    top = 2**bits - 1
    grey = np.linspace(0, top, 64).astype(np.uint16)[None].repeat(4, 0)
    colour = np.dstack([grey, grey // 2, np.zeros_like(grey)])
    shades = np.linspace(0, 255, 64)
    assert same(read_picture(grey)[:, :, 0], shades[None].repeat(4, 0).astype(int))
    cv2.imwrite(str(tmp_path / "g.png"), grey)
    for suffix in ("png", "tiff"):
        cv2.imwrite(str(tmp_path / f"c.{suffix}"), colour[:, :, ::-1])
        red, green, blue = np.moveaxis(read_image(tmp_path / f"c.{suffix}"), 2, 0)
        assert np.abs(red[0] - shades).max() <= 1 and np.abs(green[0] - shades / 2).max() <= 1
        assert blue.max() == 0
    assert np.abs(read_image(tmp_path / "g.png")[0, :, 0] - shades).max() <= 1


def test_bytes_and_open_files_are_read_like_files(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    buffer = io.BytesIO()
    buffer.write(png())  # stands at its end
    for source in (png(), bytearray(png()), memoryview(png()), buffer):
        assert same(read_picture(source))
    assert buffer.tell() == len(png())
    with open(tmp_path / "a.png", "rb") as file:
        assert same(read_picture(file))
    with pytest.raises(ImageError, match=r"a\.png: cannot be read"):
        read_picture(file)  # closed
    with (
        open(tmp_path / "a.png", encoding="latin-1") as text,
        pytest.raises(ImageError, match=r"a\.png: opened as text.*mode 'rb'"),
    ):
        read_picture(text)


def test_a_path_as_bytes_says_to_give_it_as_text(tmp_path):
    write_image(tmp_path / "a.png", rainbow())
    with pytest.raises(ImageError, match="is the name of a file.* as str or Path"):
        read_picture(str(tmp_path / "a.png").encode())
    with pytest.raises(ImageError, match="not a picture"):
        read_picture(b"nowhere.png")


@pytest.mark.parametrize("source", [None, [], ["a.jpg"], {"path": "a"}, 7, object()])
def test_everything_else_is_told_what_is_taken(source):
    with pytest.raises(ImageError, match="expected a path .*a PIL image, a numpy array or torch"):
        read_picture(source)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (np.zeros((2, 3, 8, 8), np.uint8), "one picture at a time"),
        (np.zeros((5, 8, 8), np.uint8), "expected h×w×3"),
        (np.zeros(5, np.uint8), "expected h×w×3"),
        (np.zeros((4, 4, 3), complex), "no numbers of a picture"),
        (np.array([["a"]]), "no numbers of a picture"),
        (np.linspace(-2, 2.6, 300).reshape(10, 10, 3), "normalised by a mean"),
    ],
)
def test_an_array_that_is_no_picture_says_why(array, message):
    with pytest.raises(ImageError, match=message):
        read_picture(array)


def test_values_that_are_no_numbers_are_black_and_overshoot_is_cut():
    values = np.full((4, 4, 3), 0.5, np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, -0.01, 1.02
    assert read_picture(values)[0, :, 0].tolist() == [0, 0, 255, 128]


# -- addresses


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        found = {"/photo.png": png(), "/big.png": bytes(5000)}.get(self.path)
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "ftp://localhost/photo.png")
            self.end_headers()
            return
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(found or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    serving = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_an_address_is_fetched_only_where_that_is_allowed(server):
    with pytest.raises(ImageError, match="nothing is fetched from the network unasked.*--urls"):
        read_picture(f"{server}/photo.png")
    assert same(read_picture(f"{server}/photo.png", allow_urls=True))


def test_an_address_that_gives_no_picture_says_why(server, monkeypatch):
    with pytest.raises(ImageError, match="gone.png: the server answers 404"):
        read_picture(f"{server}/gone.png", allow_urls=True)
    with pytest.raises(ImageError, match="away: (cannot be fetched|the server answers)"):
        read_picture(f"{server}/away", allow_urls=True)
    with pytest.raises(ImageError, match=r"more than 0 MB"):
        fetch(f"{server}/big.png", max_bytes=4000)
    with pytest.raises(ImageError, match="not complete in time .at most 0.0001 s"):
        clock = iter(range(100))
        monkeypatch.setattr(pictures.time, "monotonic", lambda: next(clock))
        fetch(f"{server}/big.png", seconds=0.0001)
    with pytest.raises(ImageError, match="not fetched by s3; download it"):
        read_picture("s3://bucket/a.jpg", allow_urls=True)


def test_a_password_in_an_address_is_not_told():
    with pytest.raises(ImageError) as told:
        read_picture("https://me:secret@host/a.jpg")
    assert "secret" not in str(told.value) and "me:***@host" in str(told.value)


def test_paths_may_be_any_path_object():
    class Own:
        def __fspath__(self):
            return "nowhere.jpg"

    assert path_of(Own()) == Path("nowhere.jpg")
