"""Where data, oracle arrays and third-party weights lie, and marks that skip with a reason where
they are absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HUMANQUERY_DATA", ROOT / "../shared/data")).resolve()
ORACLE = DATA.parent / "oracle"
WEIGHTS = DATA.parent / "weights"


if os.environ.get("HUMANQUERY_REQUIRE_ORACLE") == "1" and not ORACLE.is_dir():
    # parity with the official model is the first promise of the README: where it must be checked
    # (CI), an absent oracle is a failure and no skip
    raise FileNotFoundError(
        f"HUMANQUERY_REQUIRE_ORACLE=1, but {ORACLE} does not exist; put the recorded arrays of the "
        "official model there, point HUMANQUERY_DATA at the folder data beside them, or unset it"
    )


def _needs(path: Path, what: str):
    return pytest.mark.skipif(
        not path.is_dir(), reason=f"{what} not found at {path}; set HUMANQUERY_DATA"
    )


needs_data = _needs(DATA, "real photos and labels")
needs_oracle = _needs(ORACLE, "arrays of the official model")
needs_weights = _needs(WEIGHTS, "third-party pretrained weights")
