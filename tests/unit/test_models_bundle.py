"""Bundles: what is made of a model, that it is always the same bytes, and what installing it leaves in a store."""

import os
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from msgspec.structs import replace

from appliance.errors import ConfigError
from appliance.models.bundle import installing, layout
from appliance.models.bundle.installing import Installer
from appliance.models.bundle.reading import open_bundle
from appliance.models.bundle.signing import kept_signature
from appliance.models.bundle.writing import write_bundle
from appliance.models.catalog import Catalog
from appliance.models.errors import BundleRefused, DiskFull, ModelDamaged, ModelError
from appliance.models.fake import FakeImporter, fake_model, install_fake
from appliance.models.licences import licence_text
from appliance.models.manifest import MODEL_FILES, OpenVinoVersions, sealed
from appliance.models.progress import Lines, Silent
from appliance.models.pull import Pulled, Puller
from appliance.models.store import Installed, Store
from appliance.models.verification import verify
from tests.support.bundle import LICENCE, good_bundle, members_of, signer_in, write

ROOT = Path(__file__).parents[2]


def install(bundle: Path, store: Store, *, force: bool = False, said: list[str] | None = None) -> Pulled:
    progress = Lines(said.append) if said is not None else Silent()
    with open_bundle(bundle) as opened:
        return Installer(store=store, progress=progress, wait_s=5).install(opened, force=force)


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_a_bundle_is_a_tar_of_regular_files_in_one_order(tmp_path: Path) -> None:
    bundle = good_bundle(tmp_path, signer=signer_in(tmp_path))
    with tarfile.open(bundle) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        "bundle.json",
        "bundle.sig",
        "LICENSE",
        "manifest.json",
        *sorted(MODEL_FILES),
    ]
    assert all(member.isreg() for member in members)
    assert {(m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0o644, 0, 0, "", "", 0)}


def test_other_programs_read_a_bundle(tmp_path: Path) -> None:
    bundle = good_bundle(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(["tar", "-xf", bundle, "-C", out], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "openvino_model.bin").read_bytes() == b"weights"
    assert (out / "LICENSE").read_bytes() == LICENCE


def test_the_same_model_makes_the_same_bytes_whenever_wherever_and_under_whatever_umask(tmp_path: Path) -> None:
    signer = signer_in(tmp_path)
    made = []
    for name, umask in (("one", 0o022), ("two", 0o077)):
        before = os.umask(umask)
        try:
            place = tmp_path / name
            place.mkdir()
            made.append(good_bundle(place, signer=signer))
        finally:
            os.umask(before)
    stores = [Store(tmp_path / name / "store-of-fake").choose(["fake"]).manifest for name in ("one", "two")]
    assert stores[0].created_at != stores[1].created_at
    assert made[0].read_bytes() == made[1].read_bytes()
    assert [file.stat().st_mode & 0o777 for file in made] == [0o644, 0o600]


def test_a_bundle_depends_on_nothing_but_its_members(tmp_path: Path) -> None:
    """Not on tarfile, nor on the release of Python: every byte that is not a member's is spelt out here."""
    bundle = good_bundle(tmp_path)
    text = b""
    for name, body in members_of(bundle):
        size = f"{len(body):011o}".encode()
        block = name.encode().ljust(100, b"\0") + b"0000644\x000000000\x000000000\0" + size + b"\x0000000000000\0"
        block += b"        0".ljust(109, b"\0") + b"ustar\x0000" + bytes(247)
        block = block[:148] + f"{sum(block):06o}".encode() + b"\0 " + block[156:]
        text += block + body + bytes(-len(body) % 512)
    assert bundle.read_bytes() == text + bytes(1024)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "not signed"])
def test_a_bundle_of_an_installed_bundle_is_the_same_and_needs_no_key(
    tmp_path: Path, store: Store, signed: bool
) -> None:
    bundle = good_bundle(tmp_path, signer=signer_in(tmp_path) if signed else None)
    again = write_bundle(install(bundle, store).model, tmp_path / "again.tar", Silent())
    assert again.file.read_bytes() == bundle.read_bytes()
    assert (again.signature is not None) is signed


def test_a_kept_signature_is_not_put_on_another_bundle(tmp_path: Path, store: Store) -> None:
    model = install(good_bundle(tmp_path, signer=signer_in(tmp_path)), store).model
    other = write_bundle(model, tmp_path / "other.tar", Silent(), licence=b"Another text.\n")
    assert other.signature is None
    (model.directory / "bundle.sig").write_text("{}", "utf-8")
    assert kept_signature(model.directory) is None
    assert write_bundle(model, tmp_path / "again.tar", Silent()).signature is None


def test_an_installed_bundle_is_sound_and_is_found(tmp_path: Path, store: Store) -> None:
    bundle = good_bundle(tmp_path, signer=signer_in(tmp_path))
    pulled = install(bundle, store)
    assert pulled.outcome == "installed"
    assert store.choose(["fake"]) == pulled.model
    found = verify(pulled.model.manifest, pulled.model.directory)
    assert (found.problems, found.warnings) == ((), ())
    assert names_in(pulled.model.directory) == [name for name, _ in sorted(members_of(bundle))]
    assert names_in(store.directory) == [".lock", "fake"]
    assert {file.stat().st_mode & 0o777 for file in pulled.model.directory.iterdir()} == {0o644}


def test_installing_again_says_that_it_is_there(tmp_path: Path, store: Store) -> None:
    bundle = good_bundle(tmp_path)
    first = install(bundle, store).model
    assert install(bundle, store) == Pulled(first, "present")
    assert install(bundle, store, force=True) == Pulled(first, "unchanged")


def test_another_model_of_the_id_is_replaced_with_force_only(tmp_path: Path, store: Store) -> None:
    before = install_fake(store, content=b"other")
    bundle = good_bundle(tmp_path)
    with pytest.raises(ConfigError, match=rf"fake is installed with another digest \({before.manifest.digest[:16]}"):
        install(bundle, store)
    assert store.list() == [before]
    pulled = install(bundle, store, force=True)
    assert pulled.outcome == "installed"
    assert store.list() == [pulled.model, before]


def test_what_was_installed_last_is_served_whenever_it_was_made(tmp_path: Path, store: Store) -> None:
    bundle = good_bundle(tmp_path)
    first = install(bundle, store).model
    newer = install_fake(store, content=b"newer")
    assert store.find("fake") == newer
    again = install(bundle, store, force=True)
    assert (again.outcome, again.model.directory) == ("replaced", first.directory)
    assert store.find("fake") == again.model


def test_a_damaged_copy_is_mended(tmp_path: Path, store: Store) -> None:
    bundle = good_bundle(tmp_path)
    model = install(bundle, store).model
    (model.directory / "openvino_model.bin").write_bytes(b"weightz")
    assert "run: appliance models install --force BUNDLE.tar" in verify(model.manifest, model.directory).problems[0]
    assert install(bundle, store, force=True).outcome == "replaced"
    assert verify(model.manifest, model.directory).sound
    (model.directory / "manifest.json").write_text("{", "utf-8")
    said: list[str] = []
    assert install(bundle, store, said=said).outcome == "replaced"
    assert "manifest.json is damaged" in said[0]
    assert "run: appliance models install --force BUNDLE.tar (it is replaced)" in said[0]


def test_a_model_of_a_bundle_is_there_for_pull(tmp_path: Path, store: Store) -> None:
    model = install(good_bundle(tmp_path), store).model
    puller = Puller(
        store=store,
        catalog=Catalog({"fake": fake_model()}),
        importers={"wheel": FakeImporter()},
        progress=Silent(),
        wait_s=5,
    )
    assert puller.pull("fake") == Pulled(model, "present")


def test_progress_and_steps_are_told(tmp_path: Path, store: Store) -> None:
    said: list[str] = []
    install(good_bundle(tmp_path), store, said=said)
    assert said == ["fake: checking (0.0 MB)", "fake: copying (0.0 MB)", "fake: installing"]


def test_a_model_is_never_in_memory(tmp_path: Path, store: Store) -> None:
    model = install_fake(Store(tmp_path / "from"), content=os.urandom(24_000_000))
    tracemalloc.start()
    try:
        bundle = write(model, tmp_path / "big.tar").file
        install(bundle, store)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8_000_000


def test_the_licence_text_comes_with_the_appliance(tmp_path: Path) -> None:
    model = install_fake(Store(tmp_path / "from"))
    written = write_bundle(model, tmp_path / "fake.tar", Silent())
    assert dict(members_of(written.file))["LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert licence_text("apache-2.0") == licence_text("Apache-2.0")


@pytest.mark.parametrize("licence", ["unknown", "MIT", "../LICENSE", "/etc/passwd", "", "."])
def test_a_licence_without_a_text_says_what_to_do(licence: str) -> None:
    with pytest.raises(ConfigError, match="does not come with the appliance; give it with --licence-file FILE"):
        licence_text(licence)


@pytest.mark.parametrize("how", ["changed", "longer", "missing", "a link"])
def test_a_damaged_model_is_not_bundled_and_what_was_there_stays(tmp_path: Path, store: Store, how: str) -> None:
    model = install_fake(store)
    file = model.directory / "openvino_model.bin"
    if how == "changed":
        file.write_bytes(b"weightz")
    elif how == "longer":
        file.write_bytes(b"weights and more")
    else:
        file.rename(tmp_path / "moved")
        if how == "a link":
            file.symlink_to(tmp_path / "moved")
    place = tmp_path / "place"
    place.mkdir()
    target = place / "fake.tar"
    target.write_bytes(b"old")
    with pytest.raises(ModelDamaged, match=rf"{file} .*; run: appliance models pull --force fake"):
        write(model, target)
    assert names_in(place) == ["fake.tar"]
    assert target.read_bytes() == b"old"


def test_a_bundle_replaces_a_file_and_nothing_else(tmp_path: Path, store: Store) -> None:
    model = install_fake(store)
    target = tmp_path / "fake.tar"
    target.write_bytes(b"old")
    write(model, target)
    assert target.read_bytes()[:11] == b"bundle.json"
    (tmp_path / "directory").mkdir()
    for wrong, said in (("directory", "is not a file"), ("nowhere/fake.tar", "No such file or directory")):
        with pytest.raises(ModelError, match=f"the bundle .*{wrong} can't be written: .*{said}"):
            write(model, tmp_path / wrong)


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = good_bundle(tmp_path)
    monkeypatch.setattr(installing, "MARGIN_BYTES", 10**18)
    with pytest.raises(DiskFull, match=f"disk full: {store.directory} needs about 100000000000\\d MB, has "):
        install(bundle, store)
    assert not store.directory.exists()


def test_a_bundle_of_a_newer_openvino_is_refused(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = good_bundle(tmp_path)
    monkeypatch.setattr("appliance.models.bundle.reading.installed_versions", lambda: _versions("2025.1.0"))
    with pytest.raises(BundleRefused, match=r"fake was written by OpenVINO .*, newer than 2025\.1\.0 here; upgrade"):
        install(bundle, store)


def test_an_older_openvino_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = good_bundle(tmp_path)
    monkeypatch.setattr("appliance.models.bundle.reading.installed_versions", lambda: _versions("2099.1.0"))
    with open_bundle(bundle) as opened:
        assert "2099.1.0 is here; to renew it make the bundle again" in opened.contents.warnings[0]


def _versions(release: str) -> OpenVinoVersions:
    return OpenVinoVersions(release, release)


def test_a_models_own_files_may_have_any_good_name_but_the_bundles_own(tmp_path: Path, store: Store) -> None:
    model = install_fake(store)
    for name in ("LICENSE", "bundle.sig", "manifest.json", "x" * 101):
        record = model.manifest.files["openvino_model.bin"]
        manifest = sealed(replace(model.manifest, files={**model.manifest.files, name: record}))
        changed = Installed(model.directory, manifest)
        with pytest.raises(ModelError, match=r"fake can't be bundled: a bundle of it is damaged: .*bundle\.json"):
            write(changed, tmp_path / "fake.tar")
    assert not (tmp_path / "fake.tar").exists()


def test_reading_imports_no_cryptography_until_there_is_a_signature() -> None:
    script = (
        "import sys, appliance.cli\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('cryptography', '_cffi_backend')])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_the_layout_bounds_what_is_held_in_memory() -> None:
    name = "x" * 100
    member = layout.Member(name=name, size_bytes=layout.MOST_FILE_BYTES, sha256="0" * 64)
    index = layout.Index(id="i" * 64, digest="0" * 64, members=(member,) * (2 + layout.MOST_FILES))
    assert len(layout.encode_index(index)) < layout.MOST_INDEX_BYTES / 2
