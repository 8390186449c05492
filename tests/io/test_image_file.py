"""Decoding against OpenCV: every mode of pixels, EXIF orientation, masks as stored numbers, refusals by name."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pst.io.image_file import CorruptImageError, as_rgb, read_indices, read_rgb, read_size

RAMP = np.tile(np.arange(256, dtype=np.uint8), (6, 1))
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 77)], 2)


def shown_by_opencv(file: Path) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    return cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def save(image: Image.Image, file: Path, **options) -> Path:
    image.save(file, **options)
    return file


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def clear(index: int) -> Image.Image:
    """A palette whose colours are partly transparent."""
    image = Image.fromarray(COLOURS).quantize(16)
    image.info["transparency"] = bytes([index] * 16)
    return image


EXACT = {
    "grey.png": Image.fromarray(RAMP),
    "one-bit.png": Image.fromarray(RAMP > 100),
    "one-bit.tif": Image.fromarray(RAMP > 100),
    "grey-alpha.png": Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(RAMP[:, ::-1].copy())]),
    "palette.png": Image.fromarray(COLOURS).quantize(16),
    "palette-clear.png": clear(90),
    "colour.png": Image.fromarray(COLOURS),
    "colour.bmp": Image.fromarray(COLOURS),
    "colour.webp": Image.fromarray(COLOURS),
    "alpha.png": Image.fromarray(np.dstack([COLOURS, RAMP])),
    "alpha.tif": Image.fromarray(np.dstack([COLOURS, np.full_like(RAMP, 255)])),
    "grey16.png": Image.fromarray(RAMP.astype(np.uint16) * 250 + 9),
    "grey16.tif": Image.fromarray(RAMP.astype(np.uint16) * 251 + 3),
    "grey16-big.tif": Image.fromarray((RAMP.astype(np.uint16) * 257).astype(">u2")),
    "packed16.tif": Image.fromarray(RAMP.astype(np.uint16) * 257),
}


@pytest.mark.parametrize("name", EXACT)
def test_pixels_are_those_that_opencv_shows(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    options |= {"compression": "tiff_lzw"} if name == "packed16.tif" else {}
    file = save(EXACT[name], tmp_path / name, **options)
    np.testing.assert_array_equal(np.asarray(read_rgb(file)), shown_by_opencv(file))


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits(tmp_path, ending, channels):
    cv2 = pytest.importorskip("cv2")
    pixels = np.dstack([COLOURS, RAMP])[..., :channels].astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / f"a.{ending}"), pixels[..., [2, 1, 0, 3][:channels]])
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / f"a.{ending}")), COLOURS)


def test_a_pgm_of_16_bits(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 256 6 65535\n" + (RAMP.astype(">u2") * 257).tobytes())
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "a.pgm"))[..., 0], RAMP)


def test_cmyk_and_jpeg_are_near_what_opencv_shows(tmp_path):
    smooth = Image.fromarray(COLOURS).resize((64, 64))
    for file in (save(smooth, tmp_path / "a.jpg", quality=95), save(smooth.convert("CMYK"), tmp_path / "b.jpg")):
        near = np.asarray(read_rgb(file)).astype(int) - shown_by_opencv(file)
        assert np.abs(near).mean() < 3


@pytest.mark.parametrize(("pixels", "mode"), [(RAMP.astype(np.int32) * 257, "I"), (RAMP.astype(np.float32) / 255, "F")])
def test_pixels_without_a_fixed_white_are_refused_by_name(tmp_path, pixels, mode):
    file = save(Image.fromarray(pixels), tmp_path / "a.tif")
    with pytest.raises(CorruptImageError, match=rf"a\.tif .*mode {mode}.* save it as"):
        read_rgb(file)
    with pytest.raises(ValueError, match=f"mode {mode}"):
        as_rgb(Image.fromarray(pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_images_and_masks_are_upright(tmp_path, name, orientation):
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :16], pixels[16:, 48:] = (250, 0, 0), (0, 0, 250)
    file = save(Image.fromarray(pixels), tmp_path / name, exif=exif(orientation))
    got = np.asarray(read_rgb(file))
    wanted = shown_by_opencv(file)
    assert got.shape == wanted.shape == ((64, 32, 3) if orientation > 4 else (32, 64, 3))
    assert np.abs(got.astype(int) - wanted).max() < 30  # lossy, the squares are 250
    assert read_size(file) == got.shape[1::-1]
    if name == "a.png":
        mask = save(
            Image.fromarray((pixels[..., 0] > 0).astype(np.uint8)), tmp_path / "mask.png", exif=exif(orientation)
        )
        np.testing.assert_array_equal(read_indices(mask), got[..., 0] > 0)


def test_an_image_that_was_turned_is_not_turned_again(tmp_path):
    file = save(Image.fromarray(COLOURS), tmp_path / "a.png", exif=exif(6))
    once = read_rgb(file)
    assert as_rgb(once).size == once.size == (6, 256)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own
@pytest.mark.parametrize("content", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\xff" * 40])
def test_exif_that_cannot_be_read_turns_nothing(tmp_path, content):
    file = save(Image.fromarray(COLOURS), tmp_path / "a.jpg", exif=content)
    assert read_rgb(file).size == (256, 6)


# --------------------------------------------------------------------------------------------------------------- masks

STORED = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)


def packed_png(file: Path, bits: int, colour: int = 0) -> Path:
    """A PNG of 1, 2 or 4 bits, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b""
    for row in STORED % (1 << bits):
        text = "".join(f"{value:0{bits}b}" for value in row)
        rows += b"\0" + int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    palette = chunk(b"PLTE", bytes(range(40, 40 + 3 * (1 << bits)))) if colour == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, bits, colour, 0, 0, 0))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return file


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour", [0, 3])
def test_masks_of_few_bits_hold_what_was_stored(tmp_path, bits, colour):
    assert read_indices(packed_png(tmp_path / "m.png", bits, colour)).tolist() == (STORED % (1 << bits)).tolist()


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(STORED),
        Image.fromarray(STORED.astype(np.uint16)),
        Image.fromarray(np.dstack([STORED] * 3)),
        Image.fromarray(np.dstack([STORED] * 3 + [np.full_like(STORED, 255)])),
        Image.merge("LA", [Image.fromarray(STORED), Image.new("L", (4, 2), 255)]),
    ],
    ids=lambda mask: mask.mode,
)
def test_masks_of_any_mode_hold_what_was_stored(tmp_path, mask):
    assert read_indices(save(mask, tmp_path / "m.png")).tolist() == STORED.tolist()


def test_a_mask_of_32_bits(tmp_path):
    assert read_indices(save(Image.fromarray(STORED.astype(np.int32)), tmp_path / "m.tif")).tolist() == STORED.tolist()


@pytest.mark.parametrize(
    ("mask", "name", "message"),
    [
        (Image.fromarray(COLOURS), "m.png", r"m\.png is a picture \(RGB\)"),
        (Image.fromarray(np.dstack([RAMP] * 4)), "m.png", r"m\.png is a picture \(RGBA\)"),
        (Image.fromarray(RAMP), "m.jpg", r"m\.jpg is a JPEG"),
        (Image.fromarray(RAMP.astype(np.float32)), "m.tif", r"m\.tif has pixels of mode F"),
    ],
    ids=["colour", "clear", "jpeg", "float"],
)
def test_what_is_no_mask_is_refused_by_name(tmp_path, mask, name, message):
    with pytest.raises(ValueError, match=message):
        read_indices(save(mask, tmp_path / name))


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_bomb_is_refused_by_its_header(tmp_path):
    size = struct.pack(">II", 50_000, 50_000)
    content = bytearray(packed_png(tmp_path / "a.png", 1).read_bytes())
    content[16:24] = size
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(CorruptImageError, match=r"a\.png .*50000×50000 .* make it smaller"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(CorruptImageError, match=r"a\.png cannot be decoded"):
        read_rgb(tmp_path / "a.png")


def test_folders_pipes_and_nothing_are_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "none.png", "."):
        with pytest.raises(FileNotFoundError, match="no image at"):
            read_rgb(tmp_path / name)
