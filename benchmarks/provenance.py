"""Where a number comes from: the commit and the machine."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """Commit (with + where the tree differs from it), processor, threads and versions."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "machine": {
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in table.read_text().splitlines() if "model name" in line]
        if table.exists()
        else []
    )
    return names[0] if names else platform.machine()
