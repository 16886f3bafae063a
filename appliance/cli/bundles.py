"""`appliance models` bundle, install, keygen: a model as one file. Knows terminals; knows no form of a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.operation import (
    ConfigOption,
    JsonOption,
    as_dict,
    interruptible,
    open_progress,
    open_store,
    print_json,
    tell,
)
from appliance.errors import ConfigError
from appliance.models.bundle.installing import Installer
from appliance.models.bundle.layout import MOST_TEXT_BYTES
from appliance.models.bundle.reading import Bundle, open_bundle
from appliance.models.bundle.signing import Signature, key_id, make_key, read_signer
from appliance.models.bundle.writing import write_bundle
from appliance.models.errors import MB, NotInstalled
from appliance.models.pull import Outcome, Pulled


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (bundle, install, keygen):
        app.command(command.__name__)(command)


def bundle(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="An installed model.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.tar", help="The file to make; replaced if it is there.")],
    sign_key: Annotated[
        Path | None, typer.Option("--sign-key", metavar="FILE", help="Sign with this Ed25519 private key (PEM).")
    ] = None,
    licence_file: Annotated[
        Path | None,
        typer.Option("--licence-file", metavar="FILE", help="The licence's text, where the appliance has none."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make one file of an installed model, for `appliance models install` elsewhere."""
    _, store = open_store(config)
    signer = read_signer(sign_key) if sign_key is not None else None
    licence = _read_licence(licence_file) if licence_file is not None else None
    model = store.find(model_id)
    if model is None:
        raise NotInstalled(f"model {model_id} is not installed in {store.directory}")
    with interruptible("no half bundle is left"), open_progress() as progress:
        written = write_bundle(model, target.resolve(), progress, signer=signer, licence=licence)
    if as_json:
        print_json(
            {
                "file": str(written.file),
                "size_bytes": written.size_bytes,
                "signed_by": _signer(written.signature),
                "index": written.index,
            }
        )
        return
    typer.echo(f"{model_id}: {written.file} ({written.size_bytes / MB:.1f} MB, {_signed(written.signature)})")


def install(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE.tar", help="What `appliance models bundle` made.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is installed by that id.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all of it, show it, and install nothing.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install a model from a bundle; does nothing where it is installed."""
    effective, store = open_store(config)
    with (
        interruptible(),
        open_progress() as progress,
        open_bundle(file, effective.settings.models.trusted_keys) as opened,
    ):
        for warning in opened.contents.warnings:
            progress.note(f"appliance: warning: {warning}")
        installer = Installer(store=store, progress=progress)
        if dry_run:
            _show_contents(opened, installer.check(opened, force=force), as_json)
        else:
            progress.note(f"appliance: {file} is {_signed(opened.contents.signature)}")
            _show_installed(installer.install(opened, force=force), opened.contents.signature, as_json)


def keygen(
    file: Annotated[Path, typer.Argument(metavar="PRIVATE.pem", help="The private key's file.")],
    public: Annotated[bool, typer.Option("--public", help="Make none; show the public key of this one.")] = False,
) -> None:
    """Make an Ed25519 key for `bundle --sign-key`; its public key, for `models.trusted_keys`, on standard output."""
    signer = read_signer(file) if public else make_key(file)
    tell(f"{file}: private key {key_id(signer.public_key)}{'' if public else ', for its owner alone to read'}")
    typer.echo(signer.public_key)


_OUTCOMES: dict[Outcome, str] = {
    "present": "is installed",
    "installed": "installed",
    "unchanged": "is installed, and sound; it stays",
    "replaced": "installed; it replaces the copy that was there",
}


def _show_installed(installed: Pulled, signature: Signature | None, as_json: bool) -> None:
    model = installed.model
    if as_json:
        print_json({"outcome": installed.outcome, "signed_by": _signer(signature), **as_dict(model)})
        return
    size = f"{model.manifest.size_bytes / MB:.1f} MB"
    typer.echo(f"{model.id}: {_OUTCOMES[installed.outcome]} ({size}, {model.directory})")


def _show_contents(opened: Bundle, outcome: Outcome, as_json: bool) -> None:
    contents = opened.contents
    if as_json:
        signed_by = _signer(contents.signature)
        print_json(
            {"would_be": outcome, "signed_by": signed_by, "manifest": contents.manifest, "index": contents.index}
        )
        return
    manifest = contents.manifest
    typer.echo(f"{manifest.id}: {manifest.title}, {manifest.licence}; {_signed(contents.signature)}")
    typer.echo(f"  digest {manifest.digest}")
    typer.echo(f"  {manifest.quantization}")
    source = manifest.source
    parts = dict.fromkeys(filter(None, (source.kind, source.name, source.revision, source.file)))
    typer.echo(f"  from {' '.join(parts)}")
    for member in contents.index.members:
        typer.echo(f"  {member.sha256}  {member.size_bytes:>13,}  {member.name}")
    said = {"present": "it is installed", "unchanged": "it is installed, and sound"}.get(outcome, "it can be installed")
    typer.echo(f"{opened.file} is sound; {said}; nothing was done")


def _read_licence(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            text = content.read(MOST_TEXT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--licence-file {file} can't be read: {error.strerror}") from None
    if not text.strip() or len(text) > MOST_TEXT_BYTES:
        raise ConfigError(f"--licence-file {file} is empty or has more than {MOST_TEXT_BYTES:,} bytes")
    return text


def _signer(signature: Signature | None) -> dict[str, str] | None:
    return None if signature is None else {"key_id": signature.key_id, "public_key": signature.public_key}


def _signed(signature: Signature | None) -> str:
    return "not signed" if signature is None else f"signed by key {signature.key_id}"
