"""From pictures to people."""

from humanquery.predict.base import BasePredictor
from humanquery.predict.loading import load

__all__ = ["BasePredictor", "Predictor", "load"]


def __getattr__(name: str):
    if name == "Predictor":  # on first use: exported models are opened without PyTorch
        from humanquery.predict.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'humanquery.predict' has no attribute {name!r}")
