"""The official HQNet's checkpoints (github.com/lishuhuai527/COCO-UniHuman) as ours: names, sizes
and one sign."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from humanquery.backbones import TimmBackbone
from humanquery.core.errors import CheckpointError
from humanquery.models.hqnet.config import (
    DenoisingConfig,
    HQNetConfig,
    TasksConfig,
    TransformerConfig,
)
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.tasks.age import AgeConfig
from humanquery.tasks.gender import GenderConfig
from humanquery.tasks.keypoint_confidence import KeypointConfidenceConfig
from humanquery.tasks.keypoint_heatmap import HeatmapConfig
from humanquery.tasks.keypoint_refinement import RefinementConfig
from humanquery.tasks.keypoints import KeypointsConfig
from humanquery.tasks.mask import MaskConfig

HEAD, TRUNK = "bbox_head.", "bbox_head.transformer."

# official name -> ours, tried in order on names without the trunk's prefix
_LAYER = [
    (r"ffns\.0\.layers\.0\.0\.", "feedforward.expand."),
    (r"ffns\.0\.layers\.1\.", "feedforward.reduce."),
]
_ENCODER_LAYER = [
    *_LAYER,
    (r"attentions\.0\.", "attention."),
    (r"norms\.0\.", "attention_norm."),
    (r"norms\.1\.", "feedforward_norm."),
]
_DECODER_LAYER = [
    *_LAYER,
    (r"attentions\.0\.attn\.", "self_attention."),
    (r"attentions\.1\.", "cross_attention."),
    (r"norms\.0\.", "self_norm."),
    (r"norms\.1\.", "cross_norm."),
    (r"norms\.2\.", "feedforward_norm."),
]
_TRUNK = {
    "level_embeds": "encoder.level_embeds",
    "enc_output.": "selection.output.",
    "enc_output_norm.": "selection.norm.",
    "decoder.norm.": "decoder.norm.",
    "decoder.ref_point_head.": "decoder.position.",
    "refine_query_embedding.": "tasks.keypoints.refinement.joint_queries.",
    "lateral_convs.0.conv.": "tasks.mask.lateral.0.",
    "lateral_convs.0.gn.": "tasks.mask.lateral.1.",
    "output_convs.0.conv.": "tasks.mask.output.0.",
    "output_convs.0.gn.": "tasks.mask.output.1.",
    "mask_feature.": "tasks.mask.pixel_map.",
}
_HEADS = {
    "query_embed.": "content.",
    "cls_branches.": "tasks.person.heads.",
    "reg_branches.": "tasks.box.heads.",
    "kpt_branches.": "tasks.keypoints.heads.",
    "kpt_cls_branches.": "tasks.keypoint_confidence.heads.",
    "refine_kpt_branches.": "tasks.keypoints.refinement.heads.",
    "fc_hm.": "tasks.keypoints.heatmap.head.",
    "seg_mask_branches.": "tasks.mask.heads.",
}
_SMPL = ("smpl_pose_branches.", "smpl_betas_branches.", "pose_prior_loss.")


def our_name(official: str) -> str:
    """Our name of an official parameter; an unknown one raises CheckpointError."""
    if official.startswith("backbone."):
        return official
    if official.startswith("neck."):
        name = official.replace("neck.convs.", "neck.levels.").replace(
            "neck.extra_convs.", "neck.extra."
        )
        return name.replace(".gn.", ".norm.")
    if official.startswith(TRUNK):
        return _trunk_name(official[len(TRUNK) :], official)
    if official.startswith(HEAD):
        return _head_name(official[len(HEAD) :], official)
    raise _unknown(official)


def _trunk_name(name: str, official: str) -> str:
    stacks = {
        "encoder.layers.": ("encoder.layers.", _ENCODER_LAYER),
        "decoder.layers.": ("decoder.layers.", _DECODER_LAYER),
        "kpt_refine_decoder.layers.": ("tasks.keypoints.refinement.layers.", _DECODER_LAYER),
        "hm_encoder.layers.0.": ("tasks.keypoints.heatmap.layer.", _ENCODER_LAYER),
    }
    for prefix, (ours, rules) in stacks.items():
        if name.startswith(prefix):
            rest = name[len(prefix) :]
            for pattern, replacement in rules:
                rest = re.sub(pattern, replacement, rest, count=1)
            return ours + rest
    return _by_prefix(_TRUNK, name, official)


def _head_name(name: str, official: str) -> str:
    attribute = re.fullmatch(r"attr_branches\.([01])\.(\d+)\.(weight|bias)", name)
    if attribute:
        task = ("gender", "age")[int(attribute[1])]
        return f"tasks.{task}.heads.{attribute[2]}.0.{attribute[3]}"
    if name == "label_embedding.weight":
        return "denoising_label"
    return _by_prefix(_HEADS, name, official)


def _by_prefix(table: dict[str, str], name: str, official: str) -> str:
    for prefix, ours in table.items():
        if name.startswith(prefix):
            return ours + name[len(prefix) :]
    raise _unknown(official)


def _unknown(name: str) -> CheckpointError:
    return CheckpointError(
        f"official checkpoint: parameter {name!r} has no place in HQNet; expected the names of the "
        f"released HQNet "
        "(backbone., neck., bbox_head.)"
    )


def infer_config(state: Mapping[str, Tensor]) -> HQNetConfig:
    """All sizes from the shapes. The backbone is ResNet-50 as released; another one must be
    handed to `from_official`."""
    shape = {name: tuple(value.shape) for name, value in state.items()}

    def count(pattern: str) -> int:
        found = {int(m[1]) for name in state if (m := re.match(pattern, name))}
        return len(found)

    try:
        levels, dim = shape[TRUNK + "level_embeds"]
        samples = shape[TRUNK + "encoder.layers.0.attentions.0.attention_weights.weight"][0]
        feedforward = shape[TRUNK + "encoder.layers.0.ffns.0.layers.0.0.weight"][0]
        num_queries = shape[HEAD + "query_embed.weight"][0]
        num_ages = shape[HEAD + "attr_branches.1.0.weight"][0]
        hidden = shape[HEAD + "kpt_branches.0.0.weight"][0]
        num_joints = shape[TRUNK + "refine_query_embedding.weight"][0]
        refine_feedforward = shape[TRUNK + "kpt_refine_decoder.layers.0.ffns.0.layers.0.0.weight"][
            0
        ]
        heat_feedforward = shape[TRUNK + "hm_encoder.layers.0.ffns.0.layers.0.0.weight"][0]
    except KeyError as missing:
        raise CheckpointError(
            f"not an official HQNet checkpoint: parameter {missing.args[0]!r} is missing; expected "
            f"the names of the "
            "released HQNet"
        ) from None
    if num_joints != 17:
        raise CheckpointError(
            f"official checkpoint has {num_joints} joints, expected the 17 of COCO"
        )
    heads, points = 8, samples // (8 * levels)
    return HQNetConfig(
        backbone=TimmBackbone(),
        transformer=TransformerConfig(
            dim=dim,
            heads=heads,
            points=points,
            levels=levels,
            encoder_layers=count(re.escape(TRUNK) + r"encoder\.layers\.(\d+)\."),
            decoder_layers=count(re.escape(TRUNK) + r"decoder\.layers\.(\d+)\."),
            feedforward=feedforward,
        ),
        tasks=TasksConfig(
            keypoints=KeypointsConfig(
                hidden=hidden,
                refinement=RefinementConfig(
                    layers=count(re.escape(TRUNK) + r"kpt_refine_decoder\.layers\.(\d+)\."),
                    feedforward=refine_feedforward,
                ),
                heatmap=HeatmapConfig(feedforward=heat_feedforward),
            ),
            keypoint_confidence=KeypointConfidenceConfig(),
            mask=MaskConfig(),
            gender=GenderConfig(),
            age=AgeConfig(num_ages=num_ages),
        ),
        denoising=DenoisingConfig(),
        num_queries=num_queries,
        num_persons=min(100, num_queries),
    )


def our_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Parameters under our names, and notices about what was left out.

    The official gender logit is that of label 0 (male); ours is that of label 1 (female): its
    sign changes.
    """
    notices, ours = [], {}
    smpl = [name for name in state if name.startswith(tuple(HEAD + part for part in _SMPL))]
    if smpl:
        notices.append(
            f"left out the SMPL branch ({len(smpl)} tensors): humanquery has no body-model task"
        )
    for name, value in state.items():
        if name in smpl:
            continue
        new = our_name(name)
        if new == "denoising_label":
            if len(value) != 1:
                raise CheckpointError(
                    f"official checkpoint has {len(value)} classes, expected 1 (person)"
                )
            value = value[0]
        ours[new] = -value if new.startswith("tasks.gender.") else value
    return ours, notices


def from_official(
    state: Mapping[str, Tensor],
    backbone: nn.Module | None = None,
    config: HQNetConfig | None = None,
) -> HQNet:
    """An HQNet (eval mode) with the weights of an official state dict.

    Sizes come from the shapes; `config` overrides what shapes do not tell (number of heads, kept
    persons). `backbone` stands in for a ResNet-50 of other width: a module with the official
    parameter names. Unknown, missing or misshapen parameters raise CheckpointError.
    """
    return _from_official(state, backbone, config)[0]


def _from_official(
    state: Mapping[str, Tensor], backbone: nn.Module | None, config: HQNetConfig | None
) -> tuple[HQNet, list[str]]:
    ours, notices = our_state(state)
    config = config or infer_config(state)
    if backbone is None:
        width = tuple(state["backbone.conv1.weight"].shape)
        if width != (64, 3, 7, 7):
            raise CheckpointError(
                f"the official backbone's first layer is {width}, expected ResNet-50's (64, 3, 7, "
                f"7); pass backbone=..."
            )
    model = HQNet(config, backbone=backbone)
    prefix = "backbone." if backbone is not None else _timm_prefix(model)
    renamed = {
        prefix + n[len("backbone.") :] if n.startswith("backbone.") else n: v
        for n, v in ours.items()
    }
    _load(model, renamed)
    return model.eval(), notices


def _timm_prefix(model: HQNet) -> str:
    stem = next(
        name
        for name in model.state_dict()
        if name.startswith("backbone.") and name.endswith("conv1.weight")
    )
    return stem.removesuffix("conv1.weight")


def _load(model: HQNet, state: dict[str, Tensor]) -> None:
    wanted = {n: v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    misshapen = [n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape]
    if missing or extra or misshapen:
        raise CheckpointError(
            f"official checkpoint does not fit: {len(missing)} missing {missing[:5]}, {len(extra)} "
            f"unexpected {extra[:5]}, "
            f"{len(misshapen)} of another shape {misshapen[:5]}"
        )
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in state:
                value.copy_(state[name])


def read_official(path: Path) -> dict[str, Tensor]:
    """The state dict of an official .pth; nothing in the file is executed. Raises
    CheckpointError."""
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as problem:  # torch raises many kinds for broken and for unsafe files
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint of tensors ({type(problem).__name__}); a file "
            f"that needs to run code "
            "when loaded is refused. Expected the official .pth"
        ) from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path}: holds no state dict; expected the official .pth with 'state_dict'"
        )
    return dict(state)


def convert_file(source: Path, destination: Path) -> list[str]:
    """Official .pth to our .safetensors; returns notices. Raises CheckpointError."""
    from humanquery.engine.checkpoint import save_weights

    model, notices = _from_official(read_official(Path(source)), None, None)
    card = {
        "name": "hqnet-r50 (official weights)",
        "source": "converted from the official COCO-UniHuman release",
        "licences": {
            "code": "Apache-2.0",
            "weights": "non-commercial, see the official repository",
            "data": "COCO-UniHuman",
        },
    }
    save_weights(Path(destination), model, card=card)
    return notices


def with_release_quirks(config: HQNetConfig) -> HQNetConfig:
    """The config under which losses equal the official release's to the last digit, bugs of its
    mask matching included."""
    assert config.tasks.mask is not None
    return replace(
        config, tasks=replace(config.tasks, mask=replace(config.tasks.mask, release_quirks=True))
    )
