"""Where the files are that come with the appliance. Knows checkout and wheel; reads nothing."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import appliance

CHECKOUT = {"models": Path("models"), "systemd": Path("deploy/systemd")}


def shipped(kind: Literal["models", "systemd"]) -> Traversable:
    """The checkout's directory where the package runs from one, else the copy in the wheel."""
    root = Path(appliance.__file__).parent.parent
    if (root / "pyproject.toml").is_file():
        return root / CHECKOUT[kind]
    return resources.files(appliance) / "data" / kind
