"""Measures the appliance beside its rivals in one run; see README.md. Nothing of the appliance imports it."""
