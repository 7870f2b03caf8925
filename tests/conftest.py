"""Cheaper type checks: pytest's jaxtyping plugin checks every function of the library twice, and
binds its arguments, whether it has arrays or not. That took four fifths of the time of tests."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import beartype
from beartype.roar import BeartypeDecorHintException

thorough = jaxtyping.jaxtyped


def checked(thing: Any = None, *, typechecker: Callable | None = None) -> Any:
    """In the place of `jaxtyping.jaxtyped`: checks the same annotations.

    Functions with shapes are a scope of dimension names, as before; in those without any beartype
    alone looks at arguments and result. Whatever has annotations as strings, or a kind of function
    that is seldom, is left to jaxtyping.
    """
    if thing is None:
        return lambda given: checked(given, typechecker=typechecker)
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = checked(thing.__init__, typechecker=typechecker)
        return thing
    hints = getattr(thing, "__annotations__", {}).values()
    plain = inspect.isfunction(thing) and not inspect.iscoroutinefunction(thing)
    seldom = (
        not plain
        or inspect.isgeneratorfunction(thing)
        or getattr(thing, "__no_type_check__", False)
    )
    if typechecker is None or seldom or any(isinstance(hint, str) for hint in hints):
        return thorough(thing, typechecker=typechecker)
    try:
        looked_at = beartype(thing)
    except BeartypeDecorHintException:
        return thorough(thing, typechecker=typechecker)
    return in_scope(looked_at) if any(map(has_shape, hints)) else looked_at


def in_scope(function: Callable) -> Callable:
    """The function, each of whose calls has dimension names of its own."""

    @functools.wraps(function)
    def called(*args, **kwargs):
        with thorough("context"):
            return function(*args, **kwargs)

    return called


def has_shape(hint: Any) -> bool:
    """Whether an array with named dimensions stands anywhere in an annotation."""
    if isinstance(hint, list | tuple):  # of a Callable's arguments
        return any(map(has_shape, hint))
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(has_shape, get_args(hint)))


jaxtyping.jaxtyped = checked
