"""How good encoders and scores are at finding what is rare: the protocols, run and reported."""

from astroray.evaluation.models import was_trained_on
from astroray.evaluation.protocols import PROTOCOLS
from astroray.evaluation.runs import Evaluation, EvaluationConfig, evaluate_outliers

__all__ = ["PROTOCOLS", "Evaluation", "EvaluationConfig", "evaluate_outliers", "was_trained_on"]
