"""From pictures to people."""

from humanquery.predict.predictor import Predictor, load

__all__ = ["Predictor", "load"]
