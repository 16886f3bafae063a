"""An export without an exporter: the steps of an import leave small files, and tell what they were given."""

from pathlib import Path
from typing import Any

import pytest

from appliance.models.importers import checkpoint as importer
from appliance.models.importers.gguf import Report
from appliance.models.importers.quantizing import Nothing, Steps
from appliance.models.manifest import MODEL_FILES


class FakeSteps:
    """In the place of Steps.step: what each step was given, and what it would have left."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.seen: list[str] = []
        """Files that the exporter could see."""

    def step(self, label: str, type: type[Any], name: str, *arguments: str, times: int = 1) -> Any:
        self.asked.append(name)
        if name == "export":
            self.seen = sorted(path.name for path in Path(arguments[0]).iterdir())
            for file in MODEL_FILES:
                (Path(arguments[1]) / file).write_text(file, "utf-8")
        if type is Report:
            return Report(eos_token_ids=(2,), chat_template=True, text="Paris", weights="INT4 asymmetric group 64")
        return Nothing()


def fake_export(monkeypatch: pytest.MonkeyPatch) -> FakeSteps:
    """Have every import of a checkpoint end well, as if the extra were installed."""
    fake = FakeSteps()
    monkeypatch.setattr(Steps, "step", fake.step)
    monkeypatch.setattr(importer, "version", lambda package: "1.0")
    return fake
