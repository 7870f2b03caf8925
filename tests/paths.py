"""Where data, oracle arrays and third-party weights lie, and marks that skip with a reason where
they are absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HUMANQUERY_DATA", ROOT / "../shared/data")).resolve()
ORACLE = DATA.parent / "oracle"
WEIGHTS = DATA.parent / "weights"


def _needs(path: Path, what: str):
    return pytest.mark.skipif(
        not path.is_dir(), reason=f"{what} not found at {path}; set HUMANQUERY_DATA"
    )


needs_data = _needs(DATA, "real photos and labels")
needs_oracle = _needs(ORACLE, "arrays of the official model")
needs_weights = _needs(WEIGHTS, "third-party pretrained weights")
