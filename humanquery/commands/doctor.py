"""What is installed, what of it will be used, and what to do where something is missing."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from humanquery import __version__

EXTRAS = {
    "train": ("tensorboard", "matplotlib"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "interop": ("pandas", "pyarrow", "supervision"),
    "demo": ("scikit-image",),
    "track": ("trackeval",),
    "serve": ("fastapi", "uvicorn", "python-multipart", "prometheus-client"),
}
"""packages of each extra of pyproject.toml that somebody may want to have"""
CODECS = {"h264": "MP4", "hevc": "H.265", "vp9": "WebM", "av1": "AV1", "mjpeg": "webcams"}
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """The state of one part."""

    what: str
    state: str
    """ok; note: works without; problem: something will fail"""
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Everything that is worth knowing before a report of a problem; nothing is changed, but for
    kernels in C that are compiled into the cache where they are not there yet (about 2 s)."""
    return [
        _python(),
        *_guarded("PyTorch", _torch),
        *_guarded("attention kernels", _kernels),
        *_guarded("video", _codecs),
        *_guarded("weights", _weights),
        *(_extra(name, packages) for name, packages in EXTRAS.items()),
    ]


def print_findings(findings: list[Finding], console: Console | None = None) -> None:
    """A table, and below it what to do."""
    console = console or Console()
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    table = Table("", "what", "found")
    for each in findings:
        table.add_row(f"[{colours[each.state]}]{each.state}[/]", each.what, each.detail)
    console.print(table)
    for each in findings:
        if each.remedy:
            console.print(f"{each.what}: {each.remedy}", markup=False, highlight=False)


def _guarded(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a look finds; whatever it raises is a finding too, since a doctor must not fall ill."""
    try:
        return look()
    except Exception as problem:
        detail = f"{type(problem).__name__}: {problem}"
        return [Finding(what, "problem", detail, "install humanquery again in a new environment")]


def _python() -> Finding:
    detail = f"humanquery {__version__}, Python {platform.python_version()}, {platform.platform()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", "problem", detail, "install Python 3.11 or newer")
    return Finding("Python", "ok", detail)


def _torch() -> list[Finding]:
    import torch

    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    found = [Finding("PyTorch", "ok", f"{torch.__version__}, {threads}")]
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return [*found, Finding("CUDA", "ok", f"{torch.version.cuda}: {', '.join(sorted(names))}")]
    if torch.version.cuda is None:
        detail, remedy = (
            "this PyTorch is for CPUs only",
            ("where there is an NVIDIA GPU, install the PyTorch of your CUDA version"),
        )
    else:
        detail, remedy = (
            f"PyTorch is for CUDA {torch.version.cuda}, no GPU is seen",
            ("if there should be one: look at nvidia-smi, the driver and CUDA_VISIBLE_DEVICES"),
        )
    return [*found, Finding("CUDA", "note", detail, remedy)]


def _kernels() -> list[Finding]:
    import torch

    from humanquery.ops import native
    from humanquery.ops.deformable import provider_for

    used = {"cpu": provider_for("cpu")}
    if torch.cuda.is_available():
        used["cuda"] = provider_for("cuda")
    detail = ", ".join(f"{name} on {device}" for device, name in used.items())
    reason = native.missing()
    if reason:
        return [
            Finding(
                "attention kernels",
                "note",
                f"{detail}; no kernels in C ({reason})",
                "everything works, slower on the CPU; a C compiler (cc) brings them",
            )
        ]
    return [Finding("attention kernels", "ok", f"{detail}; masks in C")]


def _codecs() -> list[Finding]:
    import av

    missing = [name for name in CODECS if name not in av.codecs_available]
    detail = f"PyAV {av.__version__}: " + ", ".join(name for name in CODECS if name not in missing)
    if missing:
        lacking = ", ".join(f"{name} ({CODECS[name]})" for name in missing)
        remedy = f"cannot read {lacking}; pip install --force-reinstall av brings all of them"
        return [Finding("video", "note", detail, remedy)]
    return [Finding("video", "ok", detail)]


def _weights() -> list[Finding]:
    from humanquery.engine.checkpoint import read_card
    from humanquery.predict.base import DEFAULT, shipped_weights

    files = shipped_weights()
    if DEFAULT not in files:
        remedy = "install the wheel, or fetch the file with Git LFS (git lfs pull)"
        return [Finding("weights", "problem", f"{DEFAULT} is not there", remedy)]
    found = []
    for name, path in files.items():
        read_card(path)  # whole, ours and not newer than we are, or it raises
        found.append(Finding("weights", "ok", f"{name}, {path.stat().st_size / 1e6:.0f} MB"))
    return found


def _extra(name: str, packages: tuple[str, ...]) -> Finding:
    missing = [package for package in packages if not _version(package)]
    versions = ", ".join(f"{p} {_version(p)}" for p in packages if p not in missing)
    if not missing:
        return Finding(f"extra {name}", "ok", versions)
    detail = f"without {', '.join(missing)}" + (f"; {versions}" if versions else "")
    return Finding(f"extra {name}", "note", detail, f"pip install 'humanquery[{name}]'")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
