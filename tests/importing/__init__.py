"""Imports that take a minute each."""
