"""What is asked: prompts of a wanted length and kind, made of common words. Knows no tokenizer and no server.

Every text is made here, by rule and seed, for measuring alone: two requests begin alike only where the workload says
so, because a prefix cache would otherwise answer for the engine.
"""

import random
import re
from collections.abc import Sequence
from typing import Literal, get_args

from msgspec import Struct

from appliance.bench.words import ADJECTIVES, NOUNS, VERBS
from appliance.types import Message

Kind = Literal["free", "grounded", "code", "chat"]
KINDS: tuple[Kind, ...] = get_args(Kind)

CHAT_TURNS = 10  # then a client's next conversation begins
# Below these a text of the kind does not fit; with a shared prefix twice as much is wanted.
LEAST_PROMPT_TOKENS: dict[Kind, int] = {"free": 33, "grounded": 64, "code": 120, "chat": 48}
TEMPLATE_TOKENS = 13  # what ChatML, Qwen's and SmolLM2's template, adds to a system and a user message
MAX_TURNS = 4096  # for one client: beyond that names repeat

_NAMES = NOUNS[:256]
_NAME_WORDS = 3
_NAME_BITS = 24  # three words of 256
# Words, digits, punctuation and line ends as byte-pair tokenizers split them before they merge anything.
_PIECE = re.compile(r"[^\r\n\w]?[^\W\d_]+|_[^\W\d_]+|\d| ?[^\s\w]+[\r\n]*|_|\s*[\r\n]+|\s+(?!\S)|\s+")


class Workload(Struct, frozen=True, kw_only=True):
    """One kind of load; with a client and a turn it decides a prompt."""

    kind: Kind
    prompt_tokens: int
    """Aimed at, with the chat template: ±10 % with Qwen's tokenizer. Of a chat: its first turn's. The least of a kind
    is in LEAST_PROMPT_TOKENS."""
    output_tokens: int
    """Most tokens of an answer."""
    shared_prefix: float = 0.0
    """0 to 1: share of the requests (of a chat: of the conversations) that begin with one common text, half as long as
    the prompt."""
    think_s: float = 0.0
    """Seconds that a client waits between an answer and its next question."""
    seed: int
    """Another seed, other texts."""


def messages(workload: Workload, client: int, turn: int, answers: Sequence[str] = ()) -> list[Message]:
    """The request that `client` makes at `turn`, both from 0; always the same for the same arguments.

    `answers`: for a chat, what was answered to the turns before in this conversation, oldest first (a conversation
    begins at each turn that CHAT_TURNS divides); for those that are missing a made text stands in.
    """
    first_turn = turn - turn % CHAT_TURNS if workload.kind == "chat" else turn
    rng = _random(workload, client, first_turn, "text")
    shared = _random(workload, client, first_turn, "shared").random() < workload.shared_prefix
    name = _name(workload.seed, client, first_turn)
    system = _common_text(workload) if shared else f"{name} desk assistant."
    lead = f"For the {name} desk: " if shared else ""
    room = workload.prompt_tokens - TEMPLATE_TOKENS - estimated_tokens(system)
    if workload.kind == "chat":
        return _chat(workload, client, turn, answers, system=system, lead=lead, room=room)
    room -= estimated_tokens(lead)
    match workload.kind:
        case "free":
            text = _free(rng, room)
        case "grounded":
            text = _grounded(rng, room)
        case _:
            text = _code(rng, room)
    return [Message("system", system), Message("user", lead + text)]


def sampling_seed(workload: Workload, client: int, turn: int) -> int:
    """The seed that the request is sampled with: 32 bits."""
    return _random(workload, client, turn, "sampling").getrandbits(32)


def estimated_tokens(text: str) -> int:
    """About how many tokens `text` has where its words are common ones."""
    return len(_PIECE.findall(text))


# ---- kinds -------------------------------------------------------------------------------------------------


def _free(rng: random.Random, room: int) -> str:
    wish = f"Write an essay of 900 words about the {rng.choice(NOUNS)}."
    notes = _prose(rng, room - estimated_tokens(wish) - 1)
    return f"{notes}\n{wish}" if notes else wish


def _grounded(rng: random.Random, room: int) -> str:
    """A document, and the wish to have it quoted: asked for a part, small models stop after a sentence."""
    wish = "Repeat the whole document, all sentences, word by word."
    return f"Document:\n{_prose(rng, room - estimated_tokens(wish) - 4)}\n\n{wish}"


def _code(rng: random.Random, room: int) -> str:
    """A program, and the wish to have all of it again with one name changed."""
    wish = "\n```\nRewrite the whole program with the name {} changed to {}. Print only the program."
    left = room - estimated_tokens(wish) - 8
    functions: list[str] = []
    while not functions or left > 60:
        functions.append(_function(rng))
        left -= estimated_tokens(functions[-1])
    comment = _prose(rng, left - 2)
    program = (f"# {comment}\n" if comment else "") + "\n".join(functions)
    old = program.split("def ", 1)[1].split("(")[0]
    return f"```python\n{program}" + wish.format(old, f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}")


def _function(rng: random.Random) -> str:
    first, second = rng.sample(NOUNS, 2)
    return (
        f"def {rng.choice(VERBS)}_{rng.choice(NOUNS)}({first}, {second}):\n"
        f"    total = {first} * {rng.randrange(2, 10)}\n"
        f"    for item in {second}:\n"
        f"        total += item - {rng.randrange(2, 10)}\n"
        "    return total\n"
    )


def _chat(
    workload: Workload, client: int, turn: int, answers: Sequence[str], *, system: str, lead: str, room: int
) -> list[Message]:
    first_turn = turn - turn % CHAT_TURNS
    questions = [_question(_random(workload, client, place, "question")) for place in range(first_turn, turn + 1)]
    questions[0] = lead + questions[0]
    background = _prose(_random(workload, client, first_turn, "text"), room - estimated_tokens(questions[0]) - 1)
    conversation = [Message("system", f"{system} {background}" if background else system)]
    for place, question in enumerate(questions[:-1]):
        stand_in = _prose(_random(workload, client, first_turn + place, "answer"), workload.output_tokens)
        answer = answers[place] if place < len(answers) else stand_in
        conversation += [Message("user", question), Message("assistant", answer)]
    return [*conversation, Message("user", questions[-1])]


def _question(rng: random.Random) -> str:
    return f"Write a page about the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} and the {rng.choice(NOUNS)}."


# ---- words -------------------------------------------------------------------------------------------------


def _prose(rng: random.Random, tokens: int) -> str:
    """Sentences of `tokens` tokens in all, the last cut where they are full; empty below 2."""
    sentences: list[str] = []
    while tokens > 1:
        sentence = (
            f"The {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} of the {rng.choice(NOUNS)} {rng.choice(VERBS)} "
            f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} near the {rng.choice(NOUNS)}"
        )
        words = sentence.split()[: tokens - 1]
        sentences.append(" ".join(words) + ".")
        tokens -= len(words) + 1
    return " ".join(sentences)


def _common_text(workload: Workload) -> str:
    rng = random.Random(f"{workload.seed}/common")
    return "You know these notes. " + _prose(rng, workload.prompt_tokens // 2 - TEMPLATE_TOKENS)


def _name(seed: int, client: int, turn: int) -> str:
    """Three words that no other (client, turn) of this seed has, below MAX_TURNS turns."""
    rng = random.Random(f"{seed}/names")
    number = (client * MAX_TURNS + turn) ^ rng.getrandbits(_NAME_BITS)  # else the first is 0, whatever the seed
    for _ in range(2):  # each of these leads to every number once: odd factors, shifts that can be undone
        number = number * (rng.getrandbits(_NAME_BITS) | 1) % (1 << _NAME_BITS)
        number ^= number >> (_NAME_BITS // 2)
    words = []
    for _ in range(_NAME_WORDS):
        number, place = divmod(number, len(_NAMES))
        words.append(_NAMES[place])
    return " ".join(words)


def _random(workload: Workload, client: int, turn: int, what: str) -> random.Random:
    return random.Random(f"{workload.seed}/{client}/{turn}/{what}")
