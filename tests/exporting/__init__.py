"""Imports of directories of safetensors with the real exporter, which the `export` extra brings; minutes each."""
