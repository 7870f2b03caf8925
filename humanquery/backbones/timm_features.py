"""Any timm model with four feature maps of strides 4, 8, 16, 32."""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from humanquery.backbones.parts import Backbone, fill, freeze, read_tensors
from humanquery.core.errors import CheckpointError, ConfigError

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class TimmBackbone:
    """A timm model by name. `pretrained` fetches timm's weights from the hub; `weights` reads a
    local .safetensors (timm's names, or torchvision's `features.` names for MobileNetV2) instead.
    Defaults are the paper's ResNet-50."""

    name: str = "resnet50"
    pretrained: bool = False
    weights: str = ""
    frozen_stages: int = 1
    """the stem and so many stages stay fixed; 0 trains all, the stem included"""
    frozen_norm: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    """further arguments of timm.create_model, for instance {"drop_path_rate": 0.2}"""


class TimmFeatures(Backbone):
    """`TimmBackbone` as a module."""

    def __init__(self, config: TimmBackbone):
        super().__init__()
        self.body = _create(config)
        info = self.body.feature_info
        if tuple(info.reduction()) != STRIDES:
            raise ConfigError(
                f"backbone {config.name}: strides {info.reduction()}, expected {STRIDES}"
            )
        self.channels = tuple(info.channels())
        self.mean, self.std = (tuple(self.body.pretrained_cfg[key]) for key in ("mean", "std"))
        self.windowed = "swin" in config.name
        """window transformers give b×h×w×c maps and need sides that their strides divide"""
        if config.weights:
            fill(self.body, timm_names(read_tensors(config.weights), self.body), config.weights)
        if config.frozen_stages:
            freeze(self._first_stages(config.frozen_stages))
        if config.frozen_norm:
            self.freeze_norms()

    def _first_stages(self, count: int) -> list:
        """Modules up to and with the feature of stage `count`."""
        modules = dict(self.body.named_children())
        last = self.body.feature_info.info[self.body.feature_info.out_indices[count - 1]][
            "module"
        ].replace(".", "_")
        names = list(modules)
        if last in names:
            return [modules[n] for n in names[: names.index(last) + 1]]
        # EfficientNet-like bodies keep their stages in one list `blocks`
        index = int(last.rsplit("_", 1)[1])
        before = [modules[n] for n in names[: names.index("blocks")]]
        return before + list(modules["blocks"][: index + 1])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        if not self.windowed:
            return self.body(images)
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        return [
            f.permute(0, 3, 1, 2)[..., : -(-height // stride), : -(-width // stride)].contiguous()
            for f, stride in zip(self.body(padded), STRIDES, strict=True)
        ]


def _create(config: TimmBackbone):
    import timm  # its import takes more time than loading a network

    options = dict(config.options)
    if "swin" in config.name:
        options.setdefault("strict_img_size", False)
    try:
        body = timm.create_model(config.name, pretrained=False, features_only=True, **options)
        indices = [
            i for i, reduction in enumerate(body.feature_info.reduction()) if reduction in STRIDES
        ]
        body = timm.create_model(
            config.name,
            pretrained=config.pretrained and not config.weights,
            features_only=True,
            out_indices=indices,
            **options,
        )
    except (RuntimeError, TypeError, AssertionError) as problem:
        raise ConfigError(
            f"backbone {config.name!r} cannot be built by timm: {problem}; see timm.list_models()"
        ) from None
    except (
        OSError
    ) as problem:  # the hub client raises OSError and its subclasses when it cannot be reached
        raise _no_hub(config.name, problem) from None
    except Exception as problem:
        if type(problem).__module__.split(".")[0] in (
            "huggingface_hub",
            "requests",
            "httpx",
            "urllib",
        ):
            raise _no_hub(config.name, problem) from None
        raise
    return body


def _no_hub(name: str, problem: Exception) -> CheckpointError:
    return CheckpointError(
        f"backbone {name}: its pretrained weights could not be fetched from the hub "
        f"({type(problem).__name__}); "
        "set backbone.weights to a local .safetensors, or backbone.pretrained=false to start from "
        "scratch"
    )


def timm_names(tensors: dict[str, Tensor], body) -> dict[str, Tensor]:
    """Torchvision's MobileNetV2 names (`features.N...`) as timm's; other names stay. Classifier and
    head are dropped."""
    if any(name.startswith("features.") for name in tensors):
        order = [
            n for n in tensors_in_torchvision_order(tensors) if not n.startswith("features.18.")
        ]
        own = [n for n in body.state_dict() if not n.endswith("num_batches_tracked")]
        return dict(zip(own, (tensors[n] for n in order), strict=False))
    own = set(body.state_dict())
    return {
        n: t
        for n, t in tensors.items()
        if n in own or not n.startswith(("fc.", "classifier.", "head.", "conv_head.", "bn2."))
    }


def tensors_in_torchvision_order(tensors: dict[str, Tensor]) -> list[str]:
    """Layer by layer: both libraries build MobileNetV2 in the same order, with weight, bias, mean,
    variance per norm."""
    kinds = {"weight": 0, "bias": 1, "running_mean": 2, "running_var": 3}

    def key(name: str) -> tuple:
        *path, kind = name.split(".")
        return tuple(int(p) if p.isdigit() else -1 for p in path), kinds[kind]

    return sorted((n for n in tensors if not n.endswith("num_batches_tracked")), key=key)
