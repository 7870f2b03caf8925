"""The numbers of a pixel-wise pose regressor. Which of them the paper (Xiao et al., AAAI 2022)
states and which are ours where it is silent: docs/pixelwise.md."""

from dataclasses import dataclass, field
from typing import Literal

from humanquery.backbones import TimmBackbone
from humanquery.core.errors import ConfigError
from humanquery.core.pose_nms import PoseNMSConfig
from humanquery.core.skeleton import Skeleton
from humanquery.experts import AnyBackbone
from humanquery.media.letterbox import LetterboxConfig


@dataclass(frozen=True)
class KeypointBranchConfig:
    """One branch per keypoint; all have these sizes."""

    channels: int = 24
    query_encoding: bool = True
    """Keypoint Query Encoding (KQE); False: displacements are read at the cell itself"""
    semantic_points: int = 9
    """N of eq. for R'_k, whose features are summed; 0: the feature at the query alone"""
    points_from: Literal["cell", "query"] = "cell"
    """where the displacements of the semantic points are read: at the cell, or at the query"""
    kernel: Literal[1, 3] = 3
    """of the convolutions that give displacements"""

    def __post_init__(self):
        if self.semantic_points < 0 or self.channels < 1:
            raise ConfigError(
                f"keypoints: {self.channels} channels and {self.semantic_points} semantic points; "
                "expected at least 1 and at least 0"
            )


@dataclass(frozen=True)
class InstanceBranchConfig:
    """The branch that gives the score map."""

    channels: int = 64
    pose_query: Literal["none", "query", "keypoints", "semantic", "auto"] = "query"
    """Pose Query Encoding (PQE): the feature is read at the keypoint queries (KQ of Table 6), the
    regressed keypoints (KPS), all semantic points (SP), or as many points of its own (Auto); none:
    at the cell itself"""
    hidden: int = 0
    """channels between the concatenated features and the score; 0: one linear layer"""
    detach_queries: bool = False
    """keep the score's gradient out of the displacements"""
    label: Literal["cir", "gaussian", "disc"] = "cir"
    """what the score learns: Consistent Instance Representation (eq. 2, the OKS of the pose that
    is regressed there), a Gaussian around the centre, or 1 in the disc"""
    gaussian_sigma: float = 4.0
    """cells; of the label "gaussian" """
    quality_branch: bool = False
    """a second map learns the OKS inside of the discs alone; scores are multiplied (QEB of
    Table 3)"""


@dataclass(frozen=True)
class TargetConfig:
    """What is learned where."""

    radius: float = 4.0
    """gamma, cells: how far a person reaches around the centre"""
    overlap: Literal["nearest", "smaller_area"] = "nearest"
    """whose a cell is that lies in several discs"""
    min_area: float = 1024.0
    """px² on the canvas: people smaller than this are not learned, and are no background"""


@dataclass(frozen=True)
class LossConfig:
    score: float = 1.0
    displacement: float = 1.0
    quality: float = 1.0
    """used with `InstanceBranchConfig.quality_branch`"""
    background: float = 0.1
    """W of eq. 3 outside of the discs; 1 inside"""
    beta: float = 1.0
    """cells: where smooth L1 turns from squares to distances"""
    score_mean: Literal["discs", "cells"] = "discs"
    """what the sum of squares is divided by: the cells in discs, or all cells that count"""


@dataclass(frozen=True)
class OksNMSConfig:
    """Of poses with an OKS above `threshold` only the best stays."""

    threshold: float = 0.9


@dataclass(frozen=True)
class PixelWiseConfig:
    skeleton: str | Skeleton = "coco17"
    """name of a layout of joints that has OKS sigmas, or one of its own"""
    backbone: AnyBackbone = field(
        default_factory=lambda: TimmBackbone(
            # the bare branches of the last stage: timm's "incre" modules would widen them
            "hrnet_w32",
            frozen_stages=0,
            frozen_norm=False,
            options={"feature_location": ""},
        )
    )
    """its maps are brought to stride 4 and concatenated (480 channels of HRNet-W32)"""
    keypoints: KeypointBranchConfig = field(default_factory=KeypointBranchConfig)
    instance: InstanceBranchConfig = field(default_factory=InstanceBranchConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    input: LetterboxConfig = field(default_factory=lambda: LetterboxConfig(512, 2048))
    nms_kernel: int = 5
    """cells: scores that are not the highest of such a square are no candidates; odd"""
    num_queries: int = 30
    """cells of the highest scores that become poses"""
    num_persons: int = 30
    """poses that are given at most"""
    flip_test: bool = False
    """look at the mirrored picture too; maps are averaged"""
    scales: tuple[float, ...] = (1.0,)
    """sizes at which a picture is looked at, relative to `input`; several need `pose_nms`"""
    scale_decay: float = 0.9
    """scores from another size than 1 are multiplied by this"""
    pose_nms: OksNMSConfig | PoseNMSConfig | None = None
    """how poses of the same person are joined; None: not at all, as in the paper"""
    box_margin: float = 0.12
    """a person's box is the hull of its joints, wider by so much of its sides on each side; this is
    what meets the annotated boxes of people/train best (mean IoU 0.79)"""

    def __post_init__(self):
        needs = {"query": "query_encoding", "semantic": "query_encoding"}
        encoded = self.keypoints.query_encoding
        if self.instance.pose_query in needs and not encoded:
            raise ConfigError(
                f"instance.pose_query={self.instance.pose_query!r}: its points come from the "
                "Keypoint Query Encoding, which keypoints.query_encoding=False leaves out; expected"
                " 'none', 'keypoints' or 'auto'"
            )
        if self.instance.pose_query == "semantic" and not self.keypoints.semantic_points:
            raise ConfigError(
                "instance.pose_query='semantic' with keypoints.semantic_points=0: there are none; "
                "use 'query'"
            )
        if self.nms_kernel < 1 or self.nms_kernel % 2 == 0:
            raise ConfigError(f"nms_kernel: got {self.nms_kernel}, expected an odd number of cells")
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales: got {self.scales}, expected sizes above 0, such as (1.0,)")
        if len(self.scales) > 1 and self.pose_nms is None:
            raise ConfigError(
                f"scales: {len(self.scales)} sizes find everybody several times; set pose_nms, for "
                "instance OksNMSConfig()"
            )
