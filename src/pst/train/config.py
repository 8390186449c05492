"""What a training run can be told: every key with its meaning, type and default."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pst.backbones.channels import check_statistics
from pst.train.values import as_yaml_has_it

Task = Literal["classify", "detect", "segment"]
_MOST = 2**31 - 1
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("epochs", "batch", "accumulate", "val_every"), (1, _MOST)),
    **dict.fromkeys(("max_steps", "topk", "calibrate", "save_steps"), (0, _MOST)),
    **dict.fromkeys(("lr", "min_lr", "weight_decay", "clip_grad"), (0, math.inf)),
    **dict.fromkeys(("crop_scale", "smoothing", "jitter", "momentum"), (0, 1)),
    **dict.fromkeys(("mixup", "cutmix"), (0, 1000)),
    "imgsz": (16, 16384),
    "in_chans": (1, 4096),
    "max_tokens": (1, _MOST),
    "seed": (0, 2**32 - 1),
    "workers": (0, 1024),
    "zoom": (1, 1000),
}
SET_ANYWAY = {"topk", "selection", "max_tokens"}  # of every PST layer, whatever it was built with
_ABOVE, _BELOW = ("crop_scale",), ("smoothing", "momentum")  # the limits themselves are out of range


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that all tasks share. Frozen: what a run was given is what its folder says.

    Attributes:
        data: Folder or YAML file of the data set; see the task's reader in `pst.data`.
        out: Run folder; None takes ``runs/train/TASK``.
        seed: Of weights, data order and augmentation, at least 0.
        epochs: Passes over the training images.
        max_steps: Stop after so many optimizer steps; 0 never stops early.
        batch: Images per process and step of the loader.
        accumulate: Batches whose gradients make one optimizer step.
        imgsz: Edge of the square images in pixels, at least 16.
        in_chans: Channels of the images: 3 reads any picture as colour, 1 as grey; with 2 (grey and alpha), 4 (colour
            and alpha, or the bands of a TIFF) or more (the pages of a TIFF) every file must have them.
        workers: Processes that read images; 0 reads in the training process, the best choice with ``cache: ram``.
        cache: "ram" keeps all images decoded, as uint8; "none" reads them again in every epoch.
        check_images: Decode every image once before training. "ram" always does.
        skip_corrupt: Leave out images that cannot be decoded instead of refusing the data set.
        device: "auto" takes the accelerator there is, "cpu" the CPU, "cuda" an NVIDIA GPU or none at all.
        amp: Mixed precision: "none", "fp16" or "bf16".
        optimizer: Any name of `timm.optim`.
        lr: Highest learning rate.
        weight_decay: Of all weights but biases and norms.
        momentum: Of optimizers that have one.
        clip_grad: Largest norm of all gradients together; 0 leaves them alone.
        scheduler: Of `timm.scheduler`; "none" keeps the rate at ``lr``. Newer ones need a newer timm.
        warmup_epochs: Linear warm-up, part of ``epochs``; None takes a tenth of them, at most 3.
        min_lr: Learning rate at the end of "cosine", "tanh", "poly", "wsd" and "rsqrt".
        topk: k of every PST layer.
        fusion: "gate" or "refine".
        selection: Rule that picks the coarse tokens.
        max_tokens: Most coarse tokens that queries attend to; more are averaged. None means no bound.
        stochastic_topk: ``{choices: [0, 4, 8, 16], share: 0.5}`` draws k anew in that share of steps; None never.
        stochastic_max_tokens: ``{choices: [16, 100, null], share: 1.0}`` likewise draws the bound; null is none.
        track_fine_statistics: Let BatchNorm of keys and values see the fine map in training, for its statistics.
        calibrate: Training batches that give the fine map BatchNorm statistics of its own when training ends; 0: none.
        trainable: "all", or "gate": all else frozen, BatchNorm statistics too.
        pretrained: Start the backbone from its published weights (downloaded once by the library).
        weights: Run folder or safetensors file to start from, of the same model; its class layers are left fresh where
            the number of classes differs.
        model_args: More arguments of the function that builds the model.
        val_every: Epochs between two validations; the last epoch always validates.
        save_steps: Optimizer steps between two checkpoints inside an epoch; 0 saves at the end of each epoch only.
        tensorboard: Write TensorBoard logs.

    Examples:
        >>> from pst.train import load_config
        >>> load_config("classify", overrides=["data=photos", "epochs=5"]).epochs
        5
    """

    data: str
    out: str | None = None
    seed: int = 0
    epochs: int = 50
    max_steps: int = 0
    batch: int = 32
    accumulate: int = 1
    imgsz: int = 224
    in_chans: int = 3
    workers: int = 0
    cache: Literal["ram", "none"] = "none"
    check_images: bool = True
    skip_corrupt: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["none", "fp16", "bf16"] = "none"
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    clip_grad: float = 0.0
    scheduler: Literal["cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant", "none"] = "cosine"
    warmup_epochs: int | None = None
    min_lr: float = 1e-6
    topk: int = 0
    fusion: Literal["gate", "refine"] = "gate"
    selection: str = "mean"
    max_tokens: int | None = None
    stochastic_topk: dict[str, Any] | None = None
    stochastic_max_tokens: dict[str, Any] | None = None
    track_fine_statistics: bool = False
    calibrate: int = 0
    trainable: Literal["all", "gate"] = "all"
    pretrained: bool = False
    weights: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    val_every: int = 1
    save_steps: int = 0
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, as_yaml_has_it(each.name, getattr(self, each.name)))
        for name, (least, most) in _RANGES.items():
            if getattr(self, name, None) is not None:
                _check_range(name, getattr(self, name), least, most)
        if self.skip_corrupt and not (self.check_images or self.cache == "ram"):
            raise ValueError("skip_corrupt needs check_images=true: what is not looked at is not left out")
        if self.warmup_epochs is not None:
            _check_range("warmup_epochs", self.warmup_epochs, 0, self.epochs)
        twice = sorted({"in_chans", "in_channels"} & set(_all_keys(self.model_args)))
        if twice:
            raise ValueError(
                f"model_args has {twice[0]}, which the data would not follow: leave it out and set in_chans=…"
            )
        if twice := sorted(SET_ANYWAY & set(_all_keys(self.model_args))):
            raise ValueError(
                f"model_args has {twice[0]}, which is set on the whole model: leave it out and set {twice[0]}=…"
            )
        if self.trainable == "gate" and not (self.topk or self.stochastic_topk):
            raise ValueError("trainable=gate needs topk > 0: with k = 0 the gate has nothing to learn from")
        if self.stochastic_topk is not None:
            _check_stochastic("stochastic_topk", self.stochastic_topk, "integers ≥ 0, e.g. [0, 4, 8]", _is_topk)
        if self.stochastic_max_tokens is not None:
            wanted = "integers ≥ 1 or null, e.g. [16, 100, null]"
            _check_stochastic("stochastic_max_tokens", self.stochastic_max_tokens, wanted, _is_bound)

    @property
    def warmup(self) -> int:
        """Epochs of warm-up."""
        return min(3, self.epochs // 10) if self.warmup_epochs is None else self.warmup_epochs

    @property
    def task(self) -> Task:
        """The task whose settings these are."""
        return next(task for task, kind in CONFIGS.items() if isinstance(self, kind))

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path("runs/train") / self.task if self.out is None else Path(self.out)

    def resolved(self) -> dict[str, Any]:
        """Task and every value, ready for YAML or JSON."""
        return {**self.given(), "warmup_epochs": self.warmup}

    def given(self) -> dict[str, Any]:
        """`resolved`, but for what follows from other settings."""
        return {"task": self.task, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(Config):
    """Settings of classification.

    Attributes:
        model: Any timm model, those of `pst.integrations.timm` among them.
        crop_scale: Smallest share of the image that a random crop keeps.
        smoothing: Label smoothing.
        mixup: Alpha of timm's mixup; 0 is off.
        cutmix: Alpha of timm's cutmix; 0 is off.
    """

    model: str = "pst_resnet18"
    imgsz: int = 224
    crop_scale: float = 0.25
    smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.mixup or self.cutmix) and self.batch % 2:
            raise ValueError(f"mixup and cutmix mix pairs of images: batch must be even, got {self.batch}")


@dataclass(frozen=True, kw_only=True)
class DenseConfig(Config):
    """Settings that detection and segmentation share: a backbone with feature maps, and images with targets in place.

    Attributes:
        backbone_weights: File that the backbone starts from in place of its published weights, ``.safetensors`` or of
            ``torch.save``, by timm's names; see ``weights`` of `pst.backbones.build_body`.
        mean: Of each channel of images from 0 to 1, which they are normalised by, or of red, green and blue, which
            other numbers of channels repeat in turn or average; null takes what the network was trained with.
        std: Standard deviation, likewise.
        zoom: Images are enlarged by a random factor between 1/zoom and zoom; 1 is off.
        jitter: Largest change of brightness, contrast and saturation.
    """

    backbone_weights: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    zoom: float
    jitter: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone_weights is not None and self.pretrained:
            raise ValueError("pretrained=true and backbone_weights=… both start the backbone: give one of them")
        check_statistics(self.mean, self.std, self.in_chans)
        twice = sorted({"mean", "std", "image_mean", "image_std"} & set(_all_keys(self.model_args)))
        if twice:
            raise ValueError(f"model_args has {twice[0]}: leave it out and set {twice[0].removeprefix('image_')}=[…]")


@dataclass(frozen=True, kw_only=True)
class DetectConfig(DenseConfig):
    """Settings of detection.

    Attributes:
        model: Detector of torchvision.
        backbone: Any timm backbone with feature maps, "hf:NAME" for one of transformers, or in a YAML file a mapping,
            transformers' configuration; see `pst.backbones.build_body`.
        neck: "fpn", the usual one, which ``docs/evidence.md`` compares with the others; "pst"; or "none" for a 1×1
            convolution of each map alone.
        finest: Reduction of the finest level: 4, 8, 16 or 32; null takes 8, and 4 in a two-stage detector.
    """

    model: Literal["retinanet", "fcos", "faster_rcnn", "mask_rcnn"] = "fcos"
    backbone: str | dict[str, Any] = "resnet18"
    neck: Literal["pst", "fpn", "none"] = "fpn"
    finest: int | None = None
    imgsz: int = 640
    batch: int = 16
    lr: float = 5e-4
    clip_grad: float = 5.0
    zoom: float = 1.5


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(DenseConfig):
    """Settings of semantic segmentation.

    Attributes:
        encoder: Any timm backbone with feature maps, "hf:NAME" for one of transformers, or in a YAML file a mapping,
            transformers' configuration; see `pst.backbones.build_body`.
        neck: "pst", "fpn", or "none" for a 1×1 convolution of each map alone.
        finest: Reduction of the finest level: 4, 8 or 16.
    """

    encoder: str | dict[str, Any] = "resnet18"
    neck: Literal["pst", "fpn", "none"] = "pst"
    finest: int = 4
    imgsz: int = 512
    batch: int = 8
    zoom: float = 2.0


def _all_keys(mapping: dict[str, Any]) -> Iterator[str]:
    """Keys of a mapping and of those inside it."""
    for key, value in mapping.items():
        yield key
        if isinstance(value, dict):
            yield from _all_keys(value)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if math.isfinite(most) and most != _MOST and name not in (*_ABOVE, *_BELOW) and not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, got {value}")
    too_small = value <= least if name in _ABOVE else not value >= least  # NaN is
    if too_small:
        raise ValueError(f"{name} must be {'>' if name in _ABOVE else '≥'} {least}, got {value}")
    if value >= most if name in _BELOW else value > most or math.isinf(value):
        raise ValueError(f"{name} must be {'<' if name in _BELOW else '≤'} {most}, got {value}")


def _check_stochastic(name: str, options: dict[str, Any], wanted: str, fits: Callable[[Any], bool]) -> None:
    if unknown := sorted(options.keys() - {"choices", "share"}):
        raise ValueError(f"{name} takes choices and share, got {', '.join(unknown)}")
    choices, share = options.get("choices"), options.get("share", 0)
    if "choices" in options and not (isinstance(choices, list) and choices and all(map(fits, choices))):
        raise ValueError(f"{name}.choices must be a list of {wanted}, got {choices!r}")
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise ValueError(f"{name}.share must be a number from 0 to 1, got {share!r}")


def _is_topk(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_bound(value: Any) -> bool:
    return value is None or (type(value) is int and 1 <= value <= _MOST)


CONFIGS: dict[Task, type[Config]] = {"classify": ClassifyConfig, "detect": DetectConfig, "segment": SegmentConfig}
