"""The catalog and the recipes that come with the appliance. Knows how TOML fails."""

import tomllib
from importlib.resources.abc import Traversable
from typing import Any

from appliance.config.shipped import shipped
from appliance.errors import ConfigError


def shipped_models() -> Traversable:
    """The checkout's models/ where the package runs from one, else the copy in the wheel."""
    return shipped("models")


def read_toml(file: Traversable) -> dict[str, Any]:
    """The file's content. Raises ConfigError, naming it."""
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}") from None
