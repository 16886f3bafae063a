"""Churn: many short-lived, rude and ordinary clients at once, and what they leave behind in a daemon."""

from appliance.bench.soak.report import SoakReport
from appliance.bench.soak.run import SoakPlan, soak

__all__ = ["SoakPlan", "SoakReport", "soak"]
