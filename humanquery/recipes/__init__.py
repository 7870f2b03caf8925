"""Experiments by name. A recipe is a function whose docstring tells the command, the data, the
hardware and the score."""

from collections.abc import Callable

from humanquery.core.code_files import import_file
from humanquery.core.errors import ConfigError, nearest
from humanquery.recipes.attributes import attributes_small
from humanquery.recipes.paper import hqnet_r50, hqnet_swin_l, hqnet_vit_l
from humanquery.recipes.path import (
    path_attributes,
    path_counting,
    path_parsing,
    path_reid,
    path_small,
)
from humanquery.recipes.pixelwise import (
    pixelwise_crowdpose,
    pixelwise_small,
    pixelwise_tiny_scenes,
    pixelwise_w32,
    pixelwise_w48,
)
from humanquery.recipes.recipe import DataConfig, Recipe
from humanquery.recipes.small import hqnet_small, hqnet_tiny_scenes
from humanquery.recipes.topdown import wholebody_small

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        hqnet_r50,
        hqnet_swin_l,
        hqnet_vit_l,
        hqnet_small,
        hqnet_tiny_scenes,
        attributes_small,
        pixelwise_w32,
        pixelwise_w48,
        pixelwise_crowdpose,
        pixelwise_small,
        pixelwise_tiny_scenes,
        path_small,
        path_reid,
        path_attributes,
        path_parsing,
        path_counting,
        wholebody_small,
    )
}


def find(name: str) -> Recipe:
    """The recipe of that name, or of a file of one's own as `path/to/file.py:function`.

    An unknown name raises ConfigError with the nearest.
    """
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        made = getattr(import_file(file), function, None)
        recipe = made() if callable(made) else None
        if not isinstance(recipe, Recipe):
            raise ConfigError(
                f"recipe {name}: {file} has no function {function!r} that returns a Recipe"
            )
        return recipe
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}.{nearest(name, RECIPES)}")
    return RECIPES[name]()


__all__ = ["RECIPES", "DataConfig", "Recipe", "find"]
