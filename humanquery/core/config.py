"""Configurations are frozen dataclasses; this file turns them into plain data, back, and changes
one field by its path."""

import ast
import dataclasses
import types
import typing
from typing import Any

from humanquery.core.errors import ConfigError, nearest


def to_plain(config: Any, where: str = "config") -> Any:
    """JSON-ready data; a dataclass becomes a dict that names its class under "is".

    Anything but dataclasses, tuples, lists, dicts, strings, numbers, bools and None raises
    ConfigError.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {
            f.name: to_plain(getattr(config, f.name), f"{where}.{f.name}")
            for f in dataclasses.fields(config)
        }
        return {"is": type(config).__name__, **fields}
    if isinstance(config, list | tuple):
        return [to_plain(item, f"{where}[{i}]") for i, item in enumerate(config)]
    if isinstance(config, dict):
        return {key: to_plain(value, f"{where}[{key!r}]") for key, value in config.items()}
    if config is None or isinstance(config, str | int | float):
        return config
    raise ConfigError(
        f"{where} holds a {type(config).__name__}; a config holds plain data only (numbers, "
        f"strings, ...)"
    )


def from_plain(kind: Any, plain: Any, where: str = "config") -> Any:
    """The inverse of `to_plain` for the type `kind` (dataclass, union of dataclasses, tuple, plain
    type).

    Unknown fields raise ConfigError with the nearest known name; so do missing fields and values of
    another type. The bare name of a dataclass stands for that class with its defaults.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return plain
    if origin in (typing.Union, types.UnionType):
        return _from_union(args, plain, where)
    if origin is typing.Literal:
        if plain not in args:
            raise ConfigError(
                f"{where}: got {plain!r}, expected one of {', '.join(map(repr, args))}"
            )
        return plain
    if origin in (tuple, list):
        return _from_sequence(origin, args, plain, where)
    if dataclasses.is_dataclass(kind):
        return _from_fields(kind, {} if plain == kind.__name__ else plain, where)
    expected = origin or kind
    if expected is float and isinstance(plain, int) and not isinstance(plain, bool):
        return float(plain)
    if not isinstance(plain, expected) or (isinstance(plain, bool) and expected is not bool):
        raise ConfigError(
            f"{where}: got {plain!r} ({type(plain).__name__}), expected {expected.__name__}"
        )
    return plain


def _from_sequence(kind: type, inner: tuple, plain: Any, where: str) -> Any:
    if not isinstance(plain, list | tuple):
        raise ConfigError(
            f"{where}: got {plain!r} ({type(plain).__name__}), expected a list of values"
        )
    if kind is list or (len(inner) == 2 and inner[1] is Ellipsis):
        inner = inner[:1] * len(plain)
    if len(inner) != len(plain):
        raise ConfigError(f"{where}: got {len(plain)} values, expected {len(inner)}")
    return kind(
        from_plain(k, item, f"{where}[{i}]")
        for i, (k, item) in enumerate(zip(inner, plain, strict=True))
    )


def _from_union(kinds: tuple, plain: Any, where: str) -> Any:
    if plain is None and type(None) in kinds:
        return None
    named = {k.__name__: k for k in kinds if dataclasses.is_dataclass(k)}
    if isinstance(plain, dict) and named:
        name = plain.get("is", next(iter(named)) if len(named) == 1 else "")
        if name not in named:
            raise ConfigError(f"{where}: unknown kind {name!r}.{nearest(str(name), named)}")
        return _from_fields(named[name], plain, where)
    exact = [k for k in kinds if type(plain) is k]  # 3 in `float | int` stays an int
    problems = []
    for kind in exact or kinds:
        try:
            return from_plain(kind, plain, where)
        except ConfigError as problem:
            problems.append(str(problem))
    wanted = " or ".join(
        "None" if k is type(None) else getattr(k, "__name__", str(k)) for k in kinds
    )
    raise ConfigError(
        f"{where}: got {plain!r} ({type(plain).__name__}), expected {wanted} ({problems[0]})"
    )


def _from_fields(kind: type, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: got {plain!r}, expected the fields of {kind.__name__}")
    if plain.get("is", kind.__name__) != kind.__name__:
        raise ConfigError(f"{where}: got a {plain['is']}, expected a {kind.__name__}")
    hints = typing.get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if f.init]
    known = [f.name for f in fields]
    for name in plain:
        if name != "is" and name not in known:
            raise ConfigError(
                f"{where}: {kind.__name__} has no field {name!r}.{nearest(name, known)}"
            )
    missing = [f.name for f in fields if f.name not in plain and not _has_default(f)]
    if missing:
        raise ConfigError(f"{where}: {kind.__name__} needs a value for {', '.join(missing)}")
    return kind(
        **{
            name: from_plain(hints[name], plain[name], f"{where}.{name}")
            for name in known
            if name in plain
        }
    )


def _has_default(field: dataclasses.Field) -> bool:
    return (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )


def override(config: Any, assignments: list[str]) -> Any:
    """A copy with `path.to.field=value` applied in order; values are Python literals, anything else
    is a string. A part of a tuple goes by its number: `parts.1.name=value`.

    An unknown field or a value of the wrong type raises ConfigError.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected field=value, e.g. optim.lr=1e-4")
        config = _set(config, path.strip().split("."), text.strip(), path.strip())
    return config


def _literal(text: str) -> Any:
    spelled = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in spelled:
        return spelled[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _set(config: Any, path: list[str], text: str, where: str) -> Any:
    name, *rest = path
    if isinstance(config, tuple) and name.isdigit() and int(name) < len(config) and rest:
        i = int(name)
        return (*config[:i], _set(config[i], rest, text, where), *config[i + 1 :])
    if not dataclasses.is_dataclass(config):
        raise ConfigError(
            f"--set {where}: {config!r} ({type(config).__name__}) has no fields, so no {name!r}"
        )
    known = [f.name for f in dataclasses.fields(config)]
    if name not in known:
        raise ConfigError(
            f"--set {where}: {type(config).__name__} has no field {name!r}.{nearest(name, known)}"
        )
    if rest:
        return dataclasses.replace(config, **{name: _set(getattr(config, name), rest, text, where)})
    kind = typing.get_type_hints(type(config))[name]
    return dataclasses.replace(config, **{name: _parse(kind, text, f"--set {where}")})


def _parse(kind: Any, text: str, where: str) -> Any:
    try:
        return from_plain(kind, _literal(text), where)
    except ConfigError as problem:
        try:  # `name=123` for a string field
            return from_plain(kind, text, where)
        except ConfigError:
            raise problem from None
