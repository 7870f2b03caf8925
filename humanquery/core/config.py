"""Configurations are frozen dataclasses; this file turns them into plain data, back, and changes one field by its path."""

import ast
import dataclasses
import types
import typing
from typing import Any

from humanquery.core.errors import ConfigError, nearest


def to_plain(config: Any) -> Any:
    """JSON-ready data; a dataclass becomes a dict that names its class under "is"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"is": type(config).__name__, **fields}
    if isinstance(config, list | tuple):
        return [to_plain(item) for item in config]
    if isinstance(config, dict):
        return {key: to_plain(value) for key, value in config.items()}
    return config


def from_plain(kind: Any, plain: Any, where: str = "config") -> Any:
    """The inverse of `to_plain` for the type `kind` (dataclass, union of dataclasses, tuple, plain type).

    Unknown fields raise ConfigError with the nearest known name.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _from_union(args, plain, where)
    if origin in (tuple, list):
        inner = args[0] if args else Any
        return origin(from_plain(inner, item, f"{where}[{i}]") for i, item in enumerate(plain))
    if dataclasses.is_dataclass(kind):
        return _from_fields(kind, plain, where)
    if kind is float and isinstance(plain, int) and not isinstance(plain, bool):
        return float(plain)
    if isinstance(kind, type) and not isinstance(plain, kind):
        raise ConfigError(f"{where}: got {plain!r} ({type(plain).__name__}), expected {kind.__name__}")
    if origin is typing.Literal and plain not in args:
        raise ConfigError(f"{where}: got {plain!r}, expected one of {', '.join(map(repr, args))}")
    return plain


def _from_union(kinds: tuple, plain: Any, where: str) -> Any:
    if plain is None and type(None) in kinds:
        return None
    named = {k.__name__: k for k in kinds if dataclasses.is_dataclass(k)}
    if isinstance(plain, dict) and named:
        name = plain.get("is", next(iter(named)) if len(named) == 1 else "")
        if name not in named:
            raise ConfigError(f"{where}: unknown kind {name!r}.{nearest(name, named)}")
        return _from_fields(named[name], plain, where)
    problems = []
    for kind in kinds:
        try:
            return from_plain(kind, plain, where)
        except (ConfigError, TypeError) as problem:
            problems.append(str(problem))
    raise ConfigError(problems[0])


def _from_fields(kind: type, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: got {plain!r}, expected the fields of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for name in plain:
        if name != "is" and name not in known:
            raise ConfigError(f"{where}: {kind.__name__} has no field {name!r}.{nearest(name, known)}")
    return kind(**{name: from_plain(hints[name], plain[name], f"{where}.{name}") for name in known if name in plain})


def override(config: Any, assignments: list[str]) -> Any:
    """A copy with `path.to.field=value` applied in order; values are Python literals, anything else is a string.

    An unknown field or a value of the wrong type raises ConfigError.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected field=value, e.g. optim.lr=1e-4")
        config = _set(config, path.strip().split("."), _literal(text.strip()), path.strip())
    return config


def _literal(text: str) -> Any:
    spelled = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in spelled:
        return spelled[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _set(config: Any, path: list[str], value: Any, where: str) -> Any:
    known = [f.name for f in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    name, *rest = path
    if name not in known:
        raise ConfigError(f"--set {where}: {type(config).__name__} has no field {name!r}.{nearest(name, known)}")
    if rest:
        return dataclasses.replace(config, **{name: _set(getattr(config, name), rest, value, where)})
    kind = typing.get_type_hints(type(config))[name]
    return dataclasses.replace(config, **{name: from_plain(kind, value, f"--set {where}")})
