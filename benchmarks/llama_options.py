"""The flags that llama.cpp's server runs with, and those that were tried to find its best. Knows no process."""

BEST = ("--flash-attn", "on", "--cache-ram", "0", "--poll", "100")
"""Polling made a single stream 5 to 8 % faster, flash attention 7 %; the others below stayed within noise. Without a
copy of each finished prompt to memory, which serves no prompt that is new. Not --prio: that is a privilege over other
processes, which the rest is measured without.
"""

BEST_NGRAM = (
    *BEST,
    *("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "4", "--spec-ngram-simple-size-m", "16"),
)
"""Drafts from the text so far, for answers that quote it: 9.8 ms a token, where the others took 10.3 to 15.4."""

TRIED: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "best": BEST,
    "no cache-ram": ("--cache-ram", "0"),
    "flash attention off": (*BEST, "--flash-attn", "off"),
    "unified KV": (*BEST, "--kv-unified"),
    "cache-reuse": (*BEST, "--cache-reuse", "32"),
    "batches of 128": (*BEST, "--ubatch-size", "128"),
    "batches of 2048": (*BEST, "--ubatch-size", "2048"),
    "memory locked": (*BEST, "--load-mode", "mlock"),
    "no polling": (*BEST, "--poll", "0"),
}
"""For `--tune-llama`: free answers, alone and 8 at once."""

TRIED_NGRAM: dict[str, tuple[str, ...]] = {
    "no drafts": BEST,
    "best n-gram": BEST_NGRAM,
    "simple, as it comes": (*BEST, "--spec-type", "ngram-simple"),
    "simple 3/5": (
        *(*BEST, "--spec-type", "ngram-simple"),
        *("--spec-ngram-simple-size-n", "3", "--spec-ngram-simple-size-m", "5"),
    ),
    "simple 6/48": (
        *(*BEST, "--spec-type", "ngram-simple"),
        *("--spec-ngram-simple-size-n", "6", "--spec-ngram-simple-size-m", "48"),
    ),
    "simple 3/10": (
        *(*BEST, "--spec-type", "ngram-simple"),
        *("--spec-ngram-simple-size-n", "3", "--spec-ngram-simple-size-m", "10"),
    ),
    "map-k 3/10": (
        *(*BEST, "--spec-type", "ngram-map-k"),
        *("--spec-ngram-map-k-size-n", "3", "--spec-ngram-map-k-size-m", "10"),
    ),
    "mod 4/1/16": (
        *(*BEST, "--spec-type", "ngram-mod", "--spec-ngram-mod-n-match", "4"),
        *("--spec-ngram-mod-n-min", "1", "--spec-ngram-mod-n-max", "16"),
    ),
    "cache": (*BEST, "--spec-type", "ngram-cache", "--spec-draft-n-max", "8"),
}
"""For `--tune-llama`: grounded answers."""
