"""Where the time and the bytes of a call went: `Pool.report()`."""

from forklift.report.advice import Advice
from forklift.report.figures import Chunk, Histogram, Lane, Look, Report

__all__ = ["Advice", "Chunk", "Histogram", "Lane", "Look", "Report"]
