"""The numbers of a top-down pose model."""

from dataclasses import dataclass, field
from typing import Literal

from humanquery.core.pose_nms import PoseNMSConfig
from humanquery.nn.integral import IntegralConfig


@dataclass(frozen=True)
class FastPoseConfig:
    """ResNet, pixel shuffles, one convolution (AlphaPose, fig. 5, as released)."""

    depth: Literal[50, 101, 152] = 50
    squeeze: bool = True
    """squeeze-and-excitation in the first block of every stage"""
    deformable: bool = False
    """deformable 3×3 convolutions in the last three stages (the DCN models)"""
    unshuffle: bool = False
    """halve maps by pixel unshuffling instead of strides (the DUC models)"""
    upsampling: Literal["shuffle", "duc", "paper"] = "shuffle"
    """shuffle: a pixel shuffle and two DUC modules, 3×3 output (as released); duc: three stages
    that begin with a shuffle (the DUC models); paper: three DUC modules, 1×1 output (fig. 5)"""
    width: int = 128
    """channels of the last map (CONV_DIM; 128 or 256 in the release)"""


@dataclass(frozen=True)
class SimplePoseConfig:
    """ResNet and three transposed convolutions (Xiao et al. 2018)."""

    depth: Literal[50, 101, 152] = 50


@dataclass(frozen=True)
class HRNetConfig:
    """HRNet (Sun et al. 2019); the released pose network is W32."""

    width: Literal[18, 32, 48] = 32


@dataclass(frozen=True)
class LiteHRNetConfig:
    """Shuffle units at four strides (Lite-HRNet as PP-TinyPose has it): the light one."""

    width: int = 40
    """channels at stride 4; twice as many at each coarser stride"""
    modules: tuple[int, int, int] = (2, 4, 2)
    """exchanges between two, three and four strides"""
    detail: int = 0
    """channels of a 3×3 convolution beside the 1×1 output, for joints that a linear reading of few
    channels cannot tell apart (fingers, face); 0: none"""
    weights: str = ""
    """an ncnn file of TinyPose (`tinypose_256x192.bin`) to start from; empty: fresh weights"""


@dataclass(frozen=True)
class TopDownConfig:
    skeleton: str = "halpe136"
    network: FastPoseConfig | SimplePoseConfig | HRNetConfig | LiteHRNetConfig = field(
        default_factory=FastPoseConfig
    )
    input_size: tuple[int, int] = (256, 192)
    """(height, width) of a crop, px"""
    padding: float = 1.25
    """sides of a crop over those of the person's box, after the box got the crop's aspect"""
    mean: tuple[float, float, float] = (0.406, 0.457, 0.480)
    """taken from red, green, blue in 0..1; the release subtracts these, in this order, and does not
    divide"""
    joints_by: Literal["heatmap", "integral", "combined"] = "integral"
    """combined: SIKR for face and hands, heat maps for the rest"""
    integral: IntegralConfig = field(default_factory=IntegralConfig)
    heatmap_loss: float = 1.0
    """weight of the heat maps' mean square error; 100 in the released combined models"""
    coordinate_loss: float = 1.0
    """weight of the integral's L1; 0.01 in the released combined models"""
    body_weight: float = 2.0
    """of body and foot joints in the integral's L1, where face or hands are learned the same way"""
    sigma: float = 2.0
    """cells; of the target Gaussians"""
    flip_test: bool = True
    """predict on the mirrored crop too"""
    nms: bool = True
    """join poses of the same person by the parametric pose NMS (`core.pose_nms`)"""
    pose_nms: PoseNMSConfig | None = None
    """its numbers; None: those released for models of this kind"""
