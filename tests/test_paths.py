"""An oracle that must be there and is not fails the suite."""

import os
import subprocess
import sys

from tests.paths import ROOT


def test_a_required_oracle_that_is_absent_fails_instead_of_skipping(tmp_path):
    def importing(required: str) -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "HUMANQUERY_DATA": str(tmp_path / "data"),
            "HUMANQUERY_REQUIRE_ORACLE": required,
        }
        command = [sys.executable, "-c", "import tests.paths"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert importing("0").returncode == 0
    refused = importing("1")
    assert refused.returncode != 0
    assert "HUMANQUERY_REQUIRE_ORACLE=1, but" in refused.stderr
