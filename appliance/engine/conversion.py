"""`python -m appliance.engine.conversion`: GGUF to a proven IR, in a process of its own. Knows no catalog or store.

The last line on standard output is one JSON object: eos_token_ids, chat_template, text, weights, or error.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from appliance.engine.errand import run_errand

# A weight in the IR: [out, groups, group] or [out, in]; its scale and zero point have 1 as their last dimension.
_CONSTANT = re.compile(r'<data element_type="([ui][48])" shape="([0-9, ]+)"')
_BITS = {"4": "INT4", "8": "INT8"}


def convert(gguf: Path, directory: Path, eos_tokens: list[str]) -> dict[str, object]:
    """Write the IR and tokenizers of `gguf` into `directory`, load them from there, generate, and describe them.

    Raises RuntimeError, and others, with GenAI's own words.
    """
    # Not above: whoever imports this module for its other functions has no use for the engine.
    from appliance.engine.genai.importing import convert_gguf, probe

    convert_gguf(gguf, directory)
    report = probe(directory, eos_tokens)
    report["weights"] = describe_weights((directory / "openvino_model.xml").read_text("utf-8"))
    return report


def describe_weights(ir: str) -> str:
    """The integer weights in the text of an openvino_model.xml: "INT4 asymmetric group 32 (105 M weights), …".

    Largest share first; "" where there are none.
    """
    weights: dict[tuple[str, int], int] = {}
    offset: set[str] = set()
    for element, shape in _CONSTANT.findall(ir):
        sizes = [int(size) for size in shape.split(",")]
        if len(sizes) < 2:
            continue
        if sizes[-1] == 1:
            offset.add(element)
            continue
        group = sizes[-1] if len(sizes) == 3 else 0
        count = 1
        for size in sizes:
            count *= size
        weights[element, group] = weights.get((element, group), 0) + count
    parts = []
    for (element, group), count in sorted(weights.items(), key=lambda item: -item[1]):
        symmetry = "asymmetric" if element in offset else "symmetric"
        width = f"group {group}" if group else "per channel"
        parts.append(f"{_BITS[element[1]]} {symmetry} {width} ({count / 1e6:.0f} M weights)")
    return ", ".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 and the report, or 1 and the reason."""
    parser = argparse.ArgumentParser(description="Convert a GGUF file to OpenVINO IR and try it.")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("eos_tokens", nargs="*")
    given = parser.parse_args(arguments)
    return run_errand(lambda: convert(given.gguf, given.directory, given.eos_tokens))


if __name__ == "__main__":
    sys.exit(main())
