"""`python -m appliance.models.measuring.child ORDER.json`: a reference beside artefacts, in a process of its own.

Their logits for a vocabulary of 151,936 are too large to be kept: all models read the same piece of a sample, the
figures are taken, and the logits are gone. The last line on standard output is one JSON object: a Report, or error.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.engine.errand import limit, run_errand
from appliance.models.measuring.figures import Part, Quality
from appliance.models.measuring.tokens import Tokens, tokens_of
from appliance.models.texts import Sample, read_samples


class Model(Struct, frozen=True):
    """A directory with IR and tokenizers, and what people call it."""

    name: str
    directory: str


class Order(Struct, frozen=True, kw_only=True):
    """What to compare."""

    reference: Model
    artefacts: Sequence[Model]
    samples: str
    """The file."""
    threads: int
    memory_bytes: int
    """Most that the process may write to."""


class Found(Struct, frozen=True, kw_only=True):
    """One artefact's figures."""

    quality: Quality
    parts: Sequence[Part]


class Report(Struct, frozen=True, kw_only=True):
    """What came of an Order; artefacts in its order."""

    found: Sequence[Found] = ()
    cut: int = 0
    """Samples that were longer than what is read of one."""


class NotComparable(ValueError):
    """An artefact does not have the reference's tokens; the text names both."""


def compare(order: Order) -> Report:
    """Raises NotComparable, RuntimeError in OpenVINO's words, MemoryError."""
    limit(data_bytes=order.memory_bytes)
    samples = read_samples(Path(order.samples).read_bytes(), order.samples)
    tokens = _tokenized(order, samples)
    # Not above: NumPy and OpenVINO take memory before there is a limit, and tests of this module's forms do without.
    from appliance.models.measuring.comparing import scores_of

    paths = [Path(artefact.directory) for artefact in order.artefacts]
    wrong, scores = scores_of(Path(order.reference.directory), paths, tokens, order.threads, _tell)
    if wrong is not None:
        raise NotComparable(
            f"{order.artefacts[wrong].name} has another vocabulary than the reference {order.reference.name}; "
            "name a reference with the weights of the same model"
        )
    measured = [number for number, one in enumerate(tokens) if one.counted]
    found = [
        Found(
            quality=one.quality(measured),
            parts=[
                Part(by=by, name=name, quality=one.quality(members))
                for by, name, members in parts_of([samples[number] for number in measured], measured)
            ],
        )
        for one in scores
    ]
    return Report(found=found, cut=sum(one.cut for one in tokens))


def parts_of(samples: Sequence[Sample], numbers: Sequence[int]) -> list[tuple[str, str, list[int]]]:
    """By language and by kind, each in the order of the text: the numbers of the samples that belong to it."""
    parts: dict[tuple[str, str], list[int]] = {}
    for by in ("language", "kind"):
        for number, sample in zip(numbers, samples, strict=True):
            parts.setdefault((by, getattr(sample, by)), []).append(number)
    return [(by, name, members) for (by, name), members in parts.items()]


def _tokenized(order: Order, samples: Sequence[Sample]) -> list[Tokens]:
    """The reference's tokens of each sample, which each artefact's tokenizer must make as well."""
    from appliance.engine.genai.importing import open_tokenizer
    from appliance.engine.genai.rendering import open_renderer

    directory = Path(order.reference.directory)
    encode, _ = open_tokenizer(directory)
    render = open_renderer(directory)
    tokens = [tokens_of(sample, encode, render) for sample in samples]
    if not any(one.counted for one in tokens):
        raise ValueError("the held-out text has no position to measure: its samples are one token long")
    for artefact in order.artefacts:
        if artefact == order.reference:
            continue
        encode_too, _ = open_tokenizer(Path(artefact.directory))
        for number, (sample, expected) in enumerate(zip(samples, tokens, strict=True), start=1):
            if tokens_of(sample, encode_too, render) != expected:
                raise NotComparable(
                    f"{artefact.name} makes other tokens of sample {number} than the reference {order.reference.name}; "
                    "name a reference with the tokenizer of the same model"
                )
    return tokens


def _tell(done: int, total: int) -> None:
    print(json.dumps({"done": done, "total": total, "doing": "comparing"}), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 and the report, or 1 and the reason."""
    order = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Order)

    def errand() -> dict[str, object]:
        report: dict[str, object] = msgspec.to_builtins(compare(order))
        return report

    return run_errand(errand)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
