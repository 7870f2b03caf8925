"""humanquery sees people: one forward pass, everything about every person in a photo."""

from importlib import import_module

__version__ = "0.1.0"

# Resolved on first use, so that `import humanquery` stays free of torch.
_LAZY = {
    "load": "humanquery.predict",
    "from_pretrained": "humanquery.predict.sharing",
    "save_pretrained": "humanquery.predict.sharing",
    "push_to_hub": "humanquery.predict.sharing",
    "Persons": "humanquery.core.persons",
    "Target": "humanquery.core.target",
    "Skeleton": "humanquery.core.skeleton",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'humanquery' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
