"""Python files that a user names: tasks and recipes of one's own."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from humanquery.core.errors import ConfigError

PREFIX = "humanquery_file_"


def imported_files() -> list[str]:
    """Files that `import_file` ran in this process, in order: for processes that it starts."""
    names = [name for name in sys.modules if name.startswith(PREFIX)]
    return [str(sys.modules[name].__file__) for name in names]


def import_file(path: str | Path) -> ModuleType:
    """Runs a Python file once and gives its module, the same one each time.

    Only what a caller names is ever run, never what a weights file or a picture names. A missing
    file, or one that raises, raises ConfigError.
    """
    path = Path(path).resolve()
    name = f"{PREFIX}{path.stem}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected a Python file with a task or a recipe")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module by name
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        del sys.modules[name]
        raise ConfigError(f"{path}: running it failed: {problem!r}") from problem
    return module
