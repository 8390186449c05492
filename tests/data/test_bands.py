"""Files of 1, 2, 4 and 5 channels give those channels; a file of others is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pst.data.images import decode, letterbox
from pst.io.image_file import CorruptImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 8), dtype=np.uint8)


def pages(path, count, bits=8):
    kind = np.uint16 if bits == 16 else np.uint8
    bands = [Image.fromarray(PIXELS[..., i].astype(kind) * (257 if bits == 16 else 1)) for i in range(count)]
    bands[0].save(path, save_all=True, append_images=bands[1:])
    return path


def test_alpha_is_a_channel_where_it_is_asked_for(tmp_path):
    Image.fromarray(PIXELS[..., :4], "RGBA").save(tmp_path / "four.png")
    Image.fromarray(PIXELS[..., :2], "LA").save(tmp_path / "two.png")
    for name, channels in (("four", 4), ("two", 2)):
        found = decode(tmp_path / f"{name}.png", channels=channels)
        assert torch.equal(found, torch.from_numpy(PIXELS[..., :channels]).permute(2, 0, 1))


def test_any_picture_can_be_grey(tmp_path):
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "colour.png")
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    assert torch.equal(decode(tmp_path / "grey.png", channels=1)[0], torch.from_numpy(PIXELS[..., 0]))
    luma = PIXELS[..., :3] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(tmp_path / "colour.png", channels=1)[0].numpy() - luma).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("count", [2, 4, 5, 8])
def test_pages_of_a_tiff_are_channels(tmp_path, count, bits):
    found = decode(pages(tmp_path / "bands.tif", count, bits), channels=count)
    assert torch.equal(found, torch.from_numpy(PIXELS[..., :count]).permute(2, 0, 1))


def test_four_bands_of_a_tiff_are_channels(tmp_path):
    Image.fromarray(PIXELS[..., :4], "RGBA").save(tmp_path / "bands.tif")
    assert torch.equal(decode(tmp_path / "bands.tif", channels=4), torch.from_numpy(PIXELS[..., :4]).permute(2, 0, 1))


def test_other_channels_are_refused_by_name(tmp_path):
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "colour.png")
    with pytest.raises(CorruptImageError, match=r"colour\.png.*: it has 3 channels \(RGB\), wanted .* 4 channels"):
        decode(tmp_path / "colour.png", channels=4)
    with pytest.raises(CorruptImageError, match=r"bands\.tif.*: it has 5 pages, wanted .* 4 channels"):
        decode(pages(tmp_path / "bands.tif", 5), channels=4)


def test_filling_has_the_images_channels():
    out = letterbox(torch.zeros(5, 4, 8, dtype=torch.uint8), 8)
    assert out.shape == (5, 8, 8)
    assert out[:, 4:].eq(114).all()


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_upright_and_16_bits_keep_the_high_byte(tmp_path, channels):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    image = Image.fromarray(PIXELS[..., 0] if channels == 1 else PIXELS[..., :4])
    image.save(tmp_path / "turned.png", exif=exif)
    found = decode(tmp_path / "turned.png", channels=channels)
    assert torch.equal(found[0], torch.from_numpy(np.rot90(PIXELS[..., 0], -1).copy()))
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert torch.equal(decode(tmp_path / "deep.png", channels=1)[0], torch.from_numpy(PIXELS[..., 0]))
