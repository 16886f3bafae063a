"""A small chat model on a small PC, streamed to the LAN."""

__version__ = "0.1.0"
