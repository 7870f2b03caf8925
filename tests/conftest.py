"""What holds for all tests."""

from pathlib import Path

import pytest

ONE_PROCESS = ("export",)  # folders whose tests share something slow to make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in ONE_PROCESS:
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(here).parts[0]))
