"""What is measured: which workload, by how many clients, on whom, how often. Knows no contender but by name."""

from msgspec import Struct

from appliance.bench.workload import Kind

DAEMON = "daemon"
BARE = "bare loop"
Q4_0 = "llama.cpp Q4_0"
Q4_K_M = "llama.cpp Q4_K_M"
NGRAM = "llama.cpp Q4_0, n-gram drafts"

RARE = frozenset({Q4_K_M})
"""In the first round alone: no target is about them."""


class Cell(Struct, frozen=True, kw_only=True):
    """One level of load, on several contenders in turn, several rounds."""

    name: str
    kind: Kind
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    requests: int
    """Of each client, in a round."""
    rounds: int
    contenders: tuple[str, ...] = (DAEMON, BARE, Q4_0, Q4_K_M)


def _clients(concurrency: int, rounds: int) -> Cell:
    return Cell(
        name=f"clients-{concurrency}",
        kind="free",
        prompt_tokens=40,
        output_tokens=48,
        concurrency=concurrency,
        requests=2,
        rounds=rounds,
    )


def _first_token(prompt_tokens: int, requests: int) -> Cell:
    return Cell(
        name=f"prompt-{prompt_tokens}",
        kind="free",
        prompt_tokens=prompt_tokens,
        output_tokens=48,
        concurrency=1,
        requests=requests,
        rounds=5,
    )


CELLS = (
    _first_token(33, 2),
    _first_token(249, 1),
    _first_token(969, 1),
    Cell(name="free", kind="free", prompt_tokens=60, output_tokens=96, concurrency=1, requests=1, rounds=5),
    Cell(
        name="grounded",
        kind="grounded",
        prompt_tokens=360,
        output_tokens=128,
        concurrency=1,
        requests=1,
        rounds=5,
        contenders=(DAEMON, BARE, Q4_0, NGRAM),
    ),
    _clients(1, 5),
    _clients(2, 3),
    _clients(4, 3),
    _clients(8, 3),
    _clients(10, 3),
)
