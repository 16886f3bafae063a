"""Installed models as one file that can be carried, signed and installed elsewhere. A tar that this package defines."""
