"""Puts the compiled CPU kernel into the wheel where a C compiler is at hand; without one, or with
HUMANQUERY_WHEEL=pure, the wheel is for every machine and the kernel is compiled at its first use.
Editable installs never compile."""

import importlib.util
import os
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "editable" or os.environ.get("HUMANQUERY_WHEEL") == "pure":
            return
        place = "humanquery/ops/native"
        spec = importlib.util.spec_from_file_location(
            "kernel_build", Path(self.root, place, "build.py")
        )
        build = importlib.util.module_from_spec(
            spec
        )  # by its path: the package itself would import torch
        spec.loader.exec_module(build)
        self.folder = tempfile.TemporaryDirectory()
        try:
            made = [
                build.compile_library(level, Path(self.folder.name)) for level in build.levels()
            ]
        except OSError as error:
            self.app.display_warning(f"no CPU kernel in this wheel: {error}")
            return
        build_data["force_include"] |= {str(path): f"{place}/{path.name}" for path in made}
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{self._platform()}"

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @staticmethod
    def _platform() -> str:
        from packaging.tags import sys_tags

        return next(
            tag.platform for tag in sys_tags() if not tag.platform.startswith(("many", "musl"))
        )
