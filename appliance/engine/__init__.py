"""The engine: a contract, a supervised worker process, and the pipelines that run in it."""
