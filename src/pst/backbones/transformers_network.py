"""Networks of Hugging Face transformers: their configuration, what maps they give, and their weights.

A configuration is reduced to the fields of its own class. Those that all classes share say where weights, code and
kernels come from, in which precision they are kept, and how results are printed: nothing that builds a network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
)
from transformers.utils import logging

from pst.backbones.channels import replace_first_convolution
from pst.backbones.weights import COUNTER, INTEGERS
from pst.io.files import explained, first_line
from pst.io.transfer import check_finite, difference, shapes

PREFIX = "hf:"
PREFIX_TOKENS = {"vit": 1, "deit": 2}
"""Types of plain transformers without a backbone class -> tokens before those of the patches."""

_PROBE = 224  # a multiple of every usual patch
_SHARED = {f.name for f in dataclasses.fields(PreTrainedConfig)}


class Maps(NamedTuple):
    """What a network gives.

    Attributes:
        stages: Names of the stages that are used, finest first; () of a network without stages.
        reductions: Pixels of the image per position of each map, finest first.
        channels: Of each map.
        image_size: The only (H, W) that the network takes; None means any.
        unused: Names of parameters that none of the maps depends on.
    """

    stages: tuple[str, ...]
    reductions: tuple[int, ...]
    channels: tuple[int, ...]
    image_size: tuple[int, int] | None
    unused: frozenset[str]


def read_config(source: str | Mapping[str, Any] | PreTrainedConfig, options: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of a network, a new object of its own fields alone.

    Args:
        source: Name on the Hub, folder, configuration or what its ``to_dict`` gives.
        options: Fields that replace those of the configuration.

    Raises:
        OSError: A name's configuration cannot be fetched.
        TypeError: It is neither a name nor a configuration.
        ValueError: It is not a configuration of transformers, of a type without feature maps, or an option is unknown.
    """
    found: Any = source
    if isinstance(source, str):
        with _quiet():
            found = _fetched(source.removeprefix(PREFIX))
    if not isinstance(found, (Mapping, PreTrainedConfig)):
        raise TypeError(f"a network is a name, or a configuration of transformers, got {type(found).__name__}")
    fields = dict(found) if isinstance(found, Mapping) else found.to_dict()
    kind: Any = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        near = get_close_matches(str(kind), list(CONFIG_MAPPING), 3)
        like = f", types like it are {', '.join(near)}" if near else ""
        raise ValueError(f"a configuration of transformers names its model_type, got {kind!r}{like}")
    wanted: Any = CONFIG_MAPPING[kind]
    if kind not in PREFIX_TOKENS and wanted not in MODEL_FOR_BACKBONE_MAPPING:
        raise ValueError(
            f"transformers {transformers.__version__} has no backbone of type {kind!r}: take one of AutoBackbone's, "
            f"or of type {' or '.join(PREFIX_TOKENS)}"
        )
    own = [f.name for f in dataclasses.fields(wanted) if f.name not in _SHARED and not f.name.startswith("_")]
    if unknown := sorted(options.keys() - {*own}):
        near = get_close_matches(unknown[0], own, 1)
        like = f", did you mean {near[0]}" if near else ""
        raise ValueError(f"transformers' {wanted.__name__} has no option {unknown[0]!r}{like}")
    kept = json.loads(json.dumps({name: fields[name] for name in own if name in fields} | dict(options)))
    kept |= {name: True for name in ("reshape_hidden_states", "apply_layernorm") if name in own}
    with explained(f"transformers' {wanted.__name__} cannot be made of this configuration", passing=()):
        return wanted(**kept)


def plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """JSON of which `read_config` makes the same configuration again."""
    fields, names = config.to_dict(), {f.name for f in dataclasses.fields(type(config))} - _SHARED
    names -= {"features_only"}  # of a TimmBackbone
    kept = {name: value for name, value in fields.items() if name in names and not name.startswith("_")}
    return {"model_type": config.model_type} | json.loads(json.dumps(kept))


def channels_of(config: Any) -> int:
    """Channels of the images that a configuration is for."""
    return getattr(config, "num_channels", 3)


def for_channels(config: PreTrainedConfig, channels: int) -> PreTrainedConfig:
    """The same configuration, stages included, for images of so many channels."""
    other: Any = read_config(config, {} if channels == channels_of(config) else {"num_channels": channels})
    if getattr(config, "out_features", None):
        other.out_features = list(getattr(config, "out_features"))  # noqa: B009 - not every configuration has it
    return other


def find_maps(config: Any, name: str, coarsest: int) -> Maps:
    """Ask a network without weights for its maps; nothing is computed.

    A network whose stages are all of one resolution gives its last map; ``coarsest`` is for the others, of which the
    last stage of each resolution counts.

    Raises:
        ValueError: It cannot be built, or has no such maps.
    """
    config = read_config(config, {})
    if type(config) in MODEL_FOR_BACKBONE_MAPPING:
        config.out_features = list(config.stage_names)
    with torch.device("meta"), explained(f"{name} cannot be built of its configuration", passing=(ImportError,)):
        network = new_network(config).eval()
    tried = [(_PROBE, _PROBE), *([] if (size := _own_size(config)) is None else [size])]
    found = next(((s, maps) for s in tried if (maps := _maps(network, config, s)) is not None), None)
    if found is None:
        raise ValueError(f"{name} gives no feature maps for images of the size {' or '.join(map(str, tried))}")
    size, maps = found
    stages = getattr(config, "out_features", None) or [""]
    last = {(size[0] / y.shape[2], size[1] / y.shape[3]): (s, y) for s, y in zip(stages, maps, strict=True)}
    last.pop((1.0, 1.0), None)  # a first stage that is the image
    reductions = [int(height) for height, width in last if height == width and height.is_integer()]
    if len(reductions) != len(last) or reductions != sorted(reductions):
        raise ValueError(f"{name} has maps of reductions {[*last]}, in rows and columns: wanted are rising whole ones")
    if len(last) > 1:
        if coarsest not in reductions:
            raise ValueError(f"{name} has maps of reductions {reductions}, none of {coarsest}")
        last = {key: value for key, value in last.items() if key[0] <= coarsest}
    used = [y for _, y in last.values()]
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad([y.sum() for y in used], list(parameters.values()), allow_unused=True)
    other = (6 * reductions[0], 8 * reductions[0]) if len(last) == 1 else (96, 128)
    return Maps(
        tuple(stage for stage, _ in last.values() if stage),
        tuple(reductions[: len(last)]),
        tuple(y.shape[1] for y in used),
        None if _maps(network, config, other) is not None else size,
        frozenset(n for n, g in zip(parameters, gradients, strict=True) if g is None),
    )


def new_network(config: Any) -> Any:
    """A network with fresh weights."""
    return _class_of(config)._from_config(config, **_arguments(config))


def network_maps(network: nn.Module, config: Any, x: Tensor) -> list[Tensor]:
    """Images (B, C, H, W), multiples of the patch -> maps (B, C_i, h_i, w_i) of its stages, or of its patch tokens."""
    if config.model_type not in PREFIX_TOKENS:
        return list(network(x).feature_maps)
    tokens = network(x, interpolate_pos_encoding=True).last_hidden_state[:, PREFIX_TOKENS[config.model_type] :]
    size = _pair(config.patch_size)
    grid = tokens.reshape(x.shape[0], x.shape[2] // size[0], x.shape[3] // size[1], -1)  # no len(): it is not a symbol
    return [grid.permute(0, 3, 1, 2)]


def loaded_network(
    config: Any, name: str, *, in_channels: int, revision: str | None = None, state: Mapping[str, Tensor] | None = None
) -> Any:
    """A network with published weights, or those of a state dict, for images of ``in_channels``.

    Args:
        config: As it is published or saved; ``num_channels`` among it.
        name: On the Hub, or for messages beside ``state``.
        in_channels: Weights of images of other channels are adapted as `replace_first_convolution` says.
        revision: On the Hub.
        state: By the names of the network or of transformers' classifier around it, of this or an earlier version of
            transformers. Class layers may be missing or of other classes.

    Raises:
        OSError: The weights cannot be fetched.
        ValueError: They are another network's, or NaN or infinite.
    """
    kind, given = _class_of(config), {} if state is None else {"state_dict": dict(state)}
    source = None if state is not None else name.removeprefix(PREFIX)
    more = {"config": config, "dtype": torch.float32, "trust_remote_code": False, **_arguments(config), **given}
    if revision is not None:
        more["revision"] = revision
    wrong = [n for n, t in (state or {}).items() if not (t.is_floating_point() or n.endswith(INTEGERS))]
    if wrong:
        raise ValueError(f"{name} does not hold weights: {wrong[0]} is {given['state_dict'][wrong[0]].dtype}")
    with _quiet(), explained(f"{name} cannot be loaded", passing=(ImportError, OSError)):
        network, info = kind.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **more)
    _check(network, config, info, name, strict=state is not None)
    check_finite(network, name)
    if in_channels != channels_of(config):
        network = _with_channels(network, config, in_channels)
    return network


def _check(network: nn.Module, config: Any, info: dict[str, Any], name: str, *, strict: bool) -> None:
    """Raise ValueError unless all of the network that its library publishes was loaded, and if strict nothing else."""
    of_stages, of_classes = _apart(network, config)
    own = shapes(network.state_dict())
    missing = [n for n in info["missing_keys"] if n not in of_stages and not n.endswith(COUNTER)]
    unexpected = [n for n in info["unexpected_keys"] if not n.endswith(INTEGERS)]
    extra = [n for n in unexpected if strict and _bare(network, n) not in of_classes]
    other = {n: tuple(got) for n, got, _ in info["mismatched_keys"]}
    wanted = {n: own[n] for n in sorted({*missing, *other})}
    if said := difference(wanted, {**other, **dict.fromkeys(sorted(extra), ())}):
        raise ValueError(f"{name} does not hold the weights of this backbone: {said}; give those of the same network")


def _apart(network: Any, config: Any) -> tuple[set[str], set[str]]:
    """Entries that a backbone alone has, and those that only the network that is published has: pooling and classes."""
    own = {_bare(network, n) for n in network.state_dict()}
    published: set[str] = set()
    with torch.device("meta"):
        for mapping in (MODEL_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING):
            if type(config) in mapping:
                kind: Any = mapping[type(config)]
                published |= {_bare(network, n) for n in kind._from_config(config).state_dict()}
    return {n for n in network.state_dict() if _bare(network, n) not in published}, published - own


def _bare(network: Any, entry: str) -> str:
    """Name of an entry without the prefix that a model of classes adds."""
    return entry.removeprefix(f"{network.base_model_prefix}.")


def _with_channels(network: nn.Module, config: Any, channels: int) -> Any:
    replace_first_convolution(network, channels, pretrained=True)
    other = new_network(for_channels(config, channels))
    other.load_state_dict(network.state_dict())
    return other


def _maps(network: nn.Module, config: Any, size: tuple[int, int]) -> list[Tensor] | None:
    """Maps of a network on the meta device; None if it does not take images of this size."""
    x = torch.empty(1, channels_of(config), *size, device="meta")
    try:
        with torch.enable_grad():
            maps = network_maps(network, config, x)
    except (AssertionError, RuntimeError, ValueError):
        return None
    return maps if all(y.ndim == 4 for y in maps) else None


def _class_of(config: Any) -> Any:
    return (MODEL_MAPPING if config.model_type in PREFIX_TOKENS else MODEL_FOR_BACKBONE_MAPPING)[type(config)]


def _arguments(config: Any) -> dict[str, Any]:
    return {"add_pooling_layer": False} if config.model_type in PREFIX_TOKENS else {}


def _own_size(config: Any) -> tuple[int, int] | None:
    size = getattr(config, "image_size", None)
    return None if size is None else _pair(size)


def _pair(value: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _fetched(name: str) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise OSError(
            f"the configuration of {PREFIX}{name} is not at hand ({first_line(error)}): a name needs the network once, "
            "offline give transformers' configuration, an object or a dict, in its place"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{PREFIX}{name} has no configuration that transformers {transformers.__version__} builds a network of: "
            f"{first_line(error)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or tables of transformers: what did not load is an error here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
