"""A model's logits for given token ids, by OpenVINO itself. Runs in a process of its own; knows no text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

CHUNK_TOKENS = 64  # computed at once, as a serving engine cuts a prompt: 39 MB of logits for a vocabulary of 151,936

# A reference is computed as exactly as this CPU can, whatever it would do by itself; an artefact as it is served, but
# in f32, so that figures of two machines can be compared.
EXACT: dict[str, Any] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
AS_SERVED: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}


class Logits:
    """A model that is loaded, and the state of one sequence."""

    def __init__(self, directory: Path, properties: dict[str, Any]) -> None:
        """Raises RuntimeError in OpenVINO's words."""
        compiled = ov.Core().compile_model(directory / "openvino_model.xml", "CPU", properties)
        self._request = compiled.create_infer_request()
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        self._length = 0

    def begin(self) -> None:
        """Forget what was read: another sequence begins."""
        self._request.reset_state()
        self._length = 0

    def read(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Read on; returns the logits [len(ids), vocabulary] after each token, which hold until the next call."""
        count = len(ids)
        self._length += count
        given = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, self._length), np.int64),
            "position_ids": np.arange(self._length - count, self._length, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer({name: value for name, value in given.items() if name in self._inputs}, share_inputs=True)
        found: npt.NDArray[np.float32] = self._request.get_tensor("logits").data[0]
        return found
