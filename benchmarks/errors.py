"""What keeps a benchmark from being run or finished. Knows no contender."""


class BenchmarkError(Exception):
    """Nothing can be measured, or no longer; the text says why, and what to do about it."""
