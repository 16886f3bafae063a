"""Texts of licences that come with the appliance, by SPDX id. Knows no model."""

from appliance.errors import ConfigError
from appliance.models.shipped import shipped_models

LICENCES_NAME = "licences"
SUFFIX = ".txt"


def licence_text(licence: str) -> bytes:
    """The text. Raises ConfigError where it does not come with the appliance, with what to do."""
    for file in (shipped_models() / LICENCES_NAME).iterdir():  # never a path made of a manifest's text
        if file.name.removesuffix(SUFFIX).lower() == licence.lower():
            return file.read_bytes()
    raise ConfigError(
        f"the text of the licence {licence!r} does not come with the appliance; give it with --licence-file FILE"
    )
