"""From pictures to people."""

from humanquery.predict.opening import load
from humanquery.predict.pictures import Looker

__all__ = ["Looker", "Predictor", "load"]


def __getattr__(name: str):
    if name == "Predictor":  # on first use: exported models are opened without PyTorch
        from humanquery.predict.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'humanquery.predict' has no attribute {name!r}")
