"""Ways without attention: the old labels as they are, and optical flow."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def flow(later: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> NDArray[np.float32]:
    """OpenCV's DIS flow, preset medium, (H, W, 2): from each pixel of the later frame to its place in the earlier one.

    Args:
        later: (H, W, 3) RGB.
        earlier: The same.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (later, earlier)]
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(dis.calc(grey[0], grey[1], None), np.float32)


def places(flow: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y in the earlier frame of each pixel of the later one, (H, W) each."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return x + flow[..., 0], y + flow[..., 1]


def warped(values: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What stands in the earlier frame, (H, W), at the places of the later one."""
    x, y = places(flow)
    return np.asarray(cv2.remap(values, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE), np.uint8)
