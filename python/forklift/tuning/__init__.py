"""Settings found by experiment: `forklift.tune`, and what it found."""

from forklift.tuning.experiment import tune
from forklift.tuning.findings import Setting, Trial, Tuning

__all__ = ["Setting", "Trial", "Tuning", "tune"]
