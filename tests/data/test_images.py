"""Squaring: the right pixels, and memory that the shape of a file can't drive up."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from pst.data.images import centre_square, fitted, letterbox

BOMB = """
import resource, sys, torch
from pst.data.images import centre_square, letterbox
torch.set_num_threads(1)
thin = [torch.zeros(3, *size, dtype=torch.uint8) for size in ((1, 60_000), (60_000, 1))]
centre_square(thin[0][..., :9], 256), letterbox(thin[0][..., :9], 256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for image in thin:
    assert centre_square(image, 256).shape == letterbox(image, 256).shape == (3, 256, 256)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_shape_of_a_file():
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200  # MB; resizing before the crop takes 12,000


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 90), (25, 100)])
def test_the_centre_is_that_of_the_whole_image_resized(size):
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8)
    wanted = F.center_crop(F.resize(image, [32], antialias=True), [32, 32])
    assert torch.equal(centre_square(image, 32), wanted)


@pytest.mark.parametrize("size", [(20, 400), (400, 20)])
def test_the_centre_of_a_long_image(size):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    middle = [slice(edge // 2 - 10, edge // 2 + 10) for edge in size]
    image[:, middle[0], middle[1]] = 200
    assert (centre_square(image, 20) == 200).all()
    assert (letterbox(image, 40) != 114).any()


@pytest.mark.parametrize(
    ("size", "edge", "wanted"), [((99, 200), 101, (50, 101)), ((200, 99), 101, (101, 50)), ((1, 500), 20, (1, 20))]
)
def test_the_shorter_side_is_rounded_to_the_nearest_pixel(size, edge, wanted):
    assert fitted(size[0], size[1], edge) == wanted
