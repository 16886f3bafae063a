"""Files that come with the appliance: the catalog and the recipes. Knows where they are and how TOML fails."""

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import appliance
from appliance.errors import ConfigError


def shipped_models() -> Traversable:
    """The checkout's models/ where the package runs from one, else the copy in the wheel."""
    root = Path(appliance.__file__).parent.parent
    if (root / "pyproject.toml").is_file():
        return root / "models"
    return resources.files(appliance) / "data" / "models"


def read_toml(file: Traversable) -> dict[str, Any]:
    """The file's content. Raises ConfigError, naming it."""
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}") from None
