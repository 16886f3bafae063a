"""`appliance models show`: everything that is known of one model, installed or not. Reads; changes nothing."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
import typer

from appliance.cli.operation import ConfigOption, JsonOption, as_dict, open_catalog, open_store, print_json
from appliance.engine.memory import memory_budget
from appliance.models.bundle.signing import kept_signature
from appliance.models.catalog import CatalogModel, Source
from appliance.models.errors import MB
from appliance.models.manifest import came_in_bundle
from appliance.models.store import Installed, Unreadable, check_id
from appliance.types import GenerationDefaults

LABEL_WIDTH = 14


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("show")(show)


def show(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="A model of the catalog, or an installed one.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything that is known of a model: its catalog entry, and each copy that is installed."""
    effective, store = open_store(config)
    catalog = open_catalog(effective)
    entries = store.entries(check_id(model_id))
    known = catalog.models.get(model_id)
    if known is None and not entries:
        catalog.find(model_id)  # says which there are
    kv_cache_tokens = effective.settings.engine.kv_cache_tokens
    if as_json:
        print_json(
            {
                "id": model_id,
                "catalog": known,
                "installed": [_copy(entry, kv_cache_tokens) for entry in entries if isinstance(entry, Installed)],
                "unreadable": [
                    {"directory": str(entry.directory), "error": str(entry.error)}
                    for entry in entries
                    if isinstance(entry, Unreadable)
                ],
            }
        )
        return
    typer.echo(model_id)
    if known is not None:
        _print("in the catalog", _catalog_rows(known))
    for position, entry in enumerate(entries):
        if isinstance(entry, Unreadable):
            _print("damaged", [("directory", str(entry.directory)), ("error", str(entry.error))])
        else:
            _print("installed" if position == 0 else "installed before", _installed_rows(entry, kv_cache_tokens))
    if not entries:
        typer.echo(f"not installed; run: appliance models pull {model_id}")


def _copy(model: Installed, kv_cache_tokens: int) -> dict[str, object]:
    signature = kept_signature(model.directory)
    return {
        **as_dict(model),
        "came_in_bundle": came_in_bundle(model.directory),
        "signed_by": None if signature is None else {"key_id": signature.key_id, "public_key": signature.public_key},
        "memory_bytes": _memory_bytes(model, kv_cache_tokens),
    }


def _memory_bytes(model: Installed, kv_cache_tokens: int) -> int | None:
    """What serving takes; None where the files can't tell, which `verify` explains."""
    try:
        return memory_budget(model.directory, kv_cache_tokens).total_bytes
    except (OSError, UnicodeDecodeError):
        return None


def _print(title: str, rows: Iterable[tuple[str, str]]) -> None:
    typer.echo(f"{title}:")
    for label, value in rows:
        typer.echo(f"  {label:<{LABEL_WIDTH}}{value or 'not known'}")


def _catalog_rows(model: CatalogModel) -> Iterator[tuple[str, str]]:
    yield "title", model.title
    yield "licence", model.licence
    yield "languages", ", ".join(model.languages)
    yield "parameters", f"{model.parameters:,}"
    yield "context", f"{model.context_tokens:,} tokens"
    yield "download", _about(model.download_bytes)
    yield "on disk", _about(model.installed_bytes)
    yield "memory", _about(model.memory_bytes) + (" while it is served" if model.memory_bytes else "")
    yield "generation", _generation(model.generation)
    for source in model.source:
        yield "source", _source(source)
        yield "  sha256", source.sha256 or "not known before the first pull, which records it"


def _installed_rows(model: Installed, kv_cache_tokens: int) -> Iterator[tuple[str, str]]:
    manifest = model.manifest
    source = manifest.source
    yield "directory", str(model.directory)
    yield "digest", manifest.digest
    yield "since", manifest.created_at
    yield "title", manifest.title
    yield "licence", manifest.licence
    yield "languages", ", ".join(manifest.languages)
    yield "parameters", f"{manifest.parameters:,}"
    yield "context", f"{manifest.context_tokens:,} tokens"
    yield "weights", manifest.quantization
    yield "generation", _generation(manifest.generation)
    yield "source", _words(source.kind, source.name, source.revision, source.file)
    yield "  sha256", source.sha256
    if came_in_bundle(model.directory):
        signature = kept_signature(model.directory)
        yield "bundle", "not signed" if signature is None else f"signed by key {signature.key_id}"
    yield "written by", f"OpenVINO {manifest.openvino.openvino}, OpenVINO GenAI {manifest.openvino.openvino_genai}"
    yield "on disk", f"{manifest.size_bytes / MB:,.1f} MB"
    memory_bytes = _memory_bytes(model, kv_cache_tokens)
    served = f"{(memory_bytes or 0) / MB:,.0f} MB while it is served, with engine.kv_cache_tokens = {kv_cache_tokens}"
    yield "memory", served if memory_bytes else ""
    for name, record in sorted(manifest.files.items()):
        yield "file", f"{record.sha256}  {record.size_bytes:>13,}  {name}"


def _generation(defaults: GenerationDefaults) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in msgspec.structs.asdict(defaults).items())


def _source(source: Source) -> str:
    return _words(str(source.__struct_config__.tag), source.name, source.revision, source.file, source.quantization)


def _words(*parts: str) -> str:
    """The parts that say something, each once."""
    return " ".join(dict.fromkeys(filter(None, parts)))


def _about(size_bytes: int) -> str:
    return f"about {size_bytes / MB:,.0f} MB" if size_bytes else ""
