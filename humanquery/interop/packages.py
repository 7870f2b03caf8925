"""Packages that only some people have: found, or one message that says what to install."""

from importlib import import_module
from types import ModuleType

from humanquery.core.errors import ConfigError


def needed(module: str, what: str, install: str) -> ModuleType:
    """The module, or ConfigError: "`what` needs `module`: pip install `install`"."""
    try:
        return import_module(module)
    except ImportError as problem:
        # a package that is there and lacks one of its own says so itself
        reason = "" if problem.name in (None, module.split(".")[0]) else f" ({problem})"
        raise ConfigError(
            f"{what} needs {module.split('.')[0]}: pip install {install}{reason}"
        ) from None
