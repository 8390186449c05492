"""Models on the Hugging Face Hub: `save_pretrained`, `from_pretrained`, `push_to_hub`. Needs huggingface_hub."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import nn

from pst.io.checkpoints import load_safetensors
from pst.io.files import first_line
from pst.io.layer_settings import SETTINGS, named_settings, plain_settings, refuse_folded, restore_settings
from pst.io.model_config import at_most, check_model_config
from pst.io.transfer import check_finite, class_entries, load_weights

_LOG = logging.getLogger(__name__)
_KEPT = ("selection",)  # arguments that stand there and nowhere else

MODEL_CARD = """\
---
{{ card_data }}
---

# {{ title | default("A model with Pyramid Sparse Transformer layers", true) }}

{{ description | default("", true) }}

Built of [PST](https://arxiv.org/abs/2505.12772) layers, which fuse feature maps of two resolutions by attention.
`config.json` says how many tokens each of them refines; `pst.set_topk(model, k)` changes that at any time.

```python
from {{ module }} import {{ class_name }}

model = {{ class_name }}.from_pretrained("{{ repo_id | default("path or repository", true) }}")
```

| | |
| --- | --- |
| class | `{{ module }}.{{ class_name }}` |
| parameters | {{ parameters }} |
{% for name, value in config.items() %}| {{ name }} | `{{ value }}` |
{% endfor %}
"""


class PSTHubMixin(
    PyTorchModelHubMixin,
    library_name="pst",
    paper_url="https://arxiv.org/abs/2505.12772",
    model_card_template=MODEL_CARD,
    tags=["pyramid-sparse-transformer"],
):
    """Gives a Module `save_pretrained`, `from_pretrained` and `push_to_hub`, as huggingface_hub documents them.

    A folder or repository holds ``config.json`` (the arguments of ``__init__``, which must be JSON), the weights as
    ``model.safetensors``, and a model card. Unlike huggingface_hub's own mixin this one keeps what was set after
    building (k, fusion and selection of every PST layer), asks no library for pretrained weights when it loads, and
    refuses weights that do not fit and a ``config.json`` that says where to fetch something. For another number of
    classes, ``from_pretrained(…, num_classes=5)`` (``classes=5`` of a segmenter), it loads all but the class layers and
    logs what is left fresh.

    Inherit from it after the Module: ``class Model(nn.Module, PSTHubMixin)``.

    Attributes:
        hub_classes: Argument of ``__init__`` that is the number of classes; None where there is none.
        hub_start: Arguments of ``__init__`` that say only where weights come from -> what they are when it loads.
    """

    _hub_lost: list[str]
    hub_classes: ClassVar[str | None] = None
    hub_start: ClassVar[dict[str, Any]] = {"pretrained": False}

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Also notes which arguments JSON cannot describe: huggingface_hub leaves those out without a word."""
        model: Any = super().__new__(cls, *args, **options)
        given = {**dict(zip([*cls._hub_mixin_init_parameters][1:], args, strict=False)), **options}
        dropped = {*_KEPT, *cls.hub_start}
        model._hub_lost = [name for name, value in given.items() if name not in dropped and not cls._is_jsonable(value)]
        return model

    def hub_config(self) -> dict[str, Any]:
        """Arguments that build this model again; override it where they can change after building."""
        config: Any = self._hub_mixin_config  # None for a class without arguments
        config = {} if config is None else {k: v for k, v in config.items() if k not in {*self.hub_start, *_KEPT}}
        return config | self.hub_described()

    def hub_described(self) -> dict[str, Any]:
        """Arguments that are described otherwise than they were given, in JSON; override it where there are any."""
        return {}

    def save_pretrained(self, save_directory: str | Path, *, config: Any = None, **options: Any) -> str | None:
        """Write configuration, weights and model card to a folder; arguments as in `huggingface_hub.ModelHubMixin`.

        Raises:
            TypeError: The model was built with an argument, or a PST layer has a selection rule, that JSON cannot
                describe. Then nothing is written.
            ValueError: The model is fused: what ``from_pretrained`` builds would not take its weights.
        """
        model: Any = self
        refuse_folded(model)
        if config is None and (lost := [name for name in self._hub_lost if name not in self.hub_described()]):
            raise TypeError(f"JSON cannot describe the arguments {lost} of this model: pass config=…")
        if config is None:
            config = self.hub_config() | {SETTINGS: plain_settings(model)}
        return super().save_pretrained(save_directory, config=config, **options)

    def push_to_hub(self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any) -> str:
        """Upload what `save_pretrained` writes; arguments as in `huggingface_hub.ModelHubMixin`."""
        card = {"repo_id": repo_id} | ({} if model_card_kwargs is None else model_card_kwargs)
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def generate_model_card(self, **facts: Any) -> ModelCard:
        """The model card; ``title``, ``description`` and whatever else the template names can be given."""
        own = {"module": type(self).__module__, "class_name": type(self).__qualname__, "config": self.hub_config()}
        parameters = sum(p.numel() for p in self.parameters()) if isinstance(self, nn.Module) else 0
        return super().generate_model_card(**(own | {"parameters": f"{parameters:,}"} | facts))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """Load what `save_pretrained` wrote; arguments as in `huggingface_hub.ModelHubMixin`.

        Arguments of the class replace those that the model was saved with; ``topk`` and the like, also inside
        ``neck_options``, what was set on its layers since.

        Raises:
            OSError: There is no such folder or repository, or it cannot be reached.
            ValueError: It holds no model of this class, or says where to fetch something; the message names it.
        """
        source = str(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(source, **options, _named=named_settings(options))
        except ImportError:
            raise
        except OSError as error:
            if source in str(error):
                raise
            raise OSError(
                f"there is no folder {source}, and the Hub gave no model of that name: {first_line(error)}"
            ) from error
        except Exception as error:  # a malformed configuration fails in as many ways as there is nonsense to write
            if type(error) is ValueError and source in str(error):
                raise
            said = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(f"{source} holds no {cls.__name__} that can be built: {said}") from error

    @classmethod
    def _from_pretrained(
        cls,
        *,
        config: dict[str, Any] | None = None,
        strict: bool = True,
        _named: Collection[str] = (),
        **options: Any,
    ) -> Any:
        if config is None:
            raise ValueError(f"{options['model_id']} has no config.json: it holds no model that save_pretrained wrote")
        check_model_config(config, options["model_id"])
        settings = config.get(SETTINGS, {})
        options = {k: v for k, v in options.items() if k != SETTINGS}
        start = {k: v for k, v in cls.hub_start.items() if k in cls._hub_mixin_init_parameters}
        local = Path(options["model_id"], "model.safetensors")  # on the Hub, weights come after the configuration
        with at_most(local.stat().st_size, local) if local.is_file() else nullcontext():
            model: Any = super()._from_pretrained(strict=strict, **(start | options))
        restore_settings(model, settings, options["model_id"], _named)
        return model

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        if not strict:
            return super()._load_as_safetensor(model, model_file, map_location, strict)
        state, _ = load_safetensors(model_file)
        try:
            fresh = load_weights(model, state, None if cls.hub_classes is None else lambda: cls._class_entries(model))
        except ValueError as error:
            raise ValueError(
                f"{model_file} holds other weights than those of this {cls.__name__}: {first_line(error)}"
            ) from error
        check_finite(model, model_file)
        if fresh:
            _LOG.warning("%s has another number of classes: left fresh are %s", model_file, ", ".join(fresh))
        return model.to(map_location).eval()

    @classmethod
    def _class_entries(cls, model: Any) -> set[str]:
        start = {k: v for k, v in cls.hub_start.items() if k in cls._hub_mixin_init_parameters}
        arguments: dict[str, Any] = {**model.hub_config(), **start}
        build: Any = cls
        name = str(cls.hub_classes)
        return class_entries(lambda n: build(**{**arguments, name: n}), arguments[name])
