"""Metrics, logs and what the host tells. Knows no request's content."""
