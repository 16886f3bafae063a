"""Keys and signatures: openssl's and ours, whose signature is taken, and what is never used as a key."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.config import load
from appliance.errors import ConfigError
from appliance.models.bundle.installing import Installer
from appliance.models.bundle.reading import open_bundle
from appliance.models.bundle.signing import key_id, make_key, read_signer
from appliance.models.errors import BundleRefused
from appliance.models.fake import install_fake
from appliance.models.progress import Silent
from appliance.models.store import Store
from tests.support.bundle import good_bundle, members_of, signer_in, tar_of, write


def openssl(*arguments: str | Path) -> bytes:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=True, umask=0o077).stdout


def refused(bundle: Path, trusted_keys: tuple[str, ...] = ()) -> str:
    with pytest.raises(BundleRefused) as caught, open_bundle(bundle, trusted_keys):
        pass
    return str(caught.value)


def test_openssl_verifies_what_is_signed_here(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    bundle = good_bundle(tmp_path, signer=make_key(key))
    members = dict(members_of(bundle))
    (tmp_path / "index").write_bytes(members["bundle.json"])
    (tmp_path / "signature").write_bytes(base64.b64decode(json.loads(members["bundle.sig"])["signature"]))
    (tmp_path / "public.pem").write_bytes(openssl("pkey", "-in", key, "-pubout"))
    said = openssl(
        *("pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "public.pem", "-rawin"),
        *("-in", tmp_path / "index", "-sigfile", tmp_path / "signature"),
    )
    assert said == b"Signature Verified Successfully\n"


def test_a_key_of_openssl_signs_and_its_public_key_is_the_last_32_bytes_of_its_der(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    signer = read_signer(key)
    der = openssl("pkey", "-in", key, "-pubout", "-outform", "DER")
    assert signer.public_key == base64.b64encode(der[-32:]).decode()
    bundle = good_bundle(tmp_path, signer=signer)
    with open_bundle(bundle, (signer.public_key,)) as opened:
        assert opened.contents.signature is not None
        assert opened.contents.signature.key_id == key_id(signer.public_key)


def test_a_public_key_is_a_setting(tmp_path: Path) -> None:
    public_key = signer_in(tmp_path).public_key
    file = tmp_path / "appliance.toml"
    file.write_text(f'[models]\ntrusted_keys = ["{public_key}"]\n', "utf-8")
    assert load(file, environ={}).settings.models.trusted_keys == (public_key,)
    environ = {"APPLIANCE__MODELS__TRUSTED_KEYS": f"{public_key},{public_key}"}
    assert load(environ=environ).settings.models.trusted_keys == (public_key, public_key)


@pytest.mark.parametrize(
    "wrong", ["", "key.pem", "A" * 44, "A" * 43, "A" * 42 + "B=", "A" * 43 + "=\n", " " + "A" * 43]
)
def test_what_is_no_public_key_is_no_setting(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(f"[models]\ntrusted_keys = {json.dumps([wrong])}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"models\.trusted_keys = .*: expected a list of Ed25519 public keys"):
        load(file, environ={})


def test_only_a_bundle_by_a_trusted_key_is_taken(tmp_path: Path) -> None:
    ours, theirs = signer_in(tmp_path, "ours.pem"), signer_in(tmp_path, "theirs.pem")
    for directory in ("a", "b", "c"):
        (tmp_path / directory).mkdir()
    good = good_bundle(tmp_path / "a", signer=ours)
    other = good_bundle(tmp_path / "b", signer=theirs)
    unsigned = good_bundle(tmp_path / "c")
    trusted = (signer_in(tmp_path, "third.pem").public_key, ours.public_key)
    known = ", ".join(map(key_id, trusted))
    with open_bundle(good, trusted):
        pass
    assert refused(other, trusted) == (
        f"{other} is signed by {key_id(theirs.public_key)}, and models.trusted_keys has {known} only; "
        "nothing was installed"
    )
    assert refused(unsigned, trusted) == (
        f"{unsigned} is not signed, and models.trusted_keys asks for a signature by {known}; nothing was installed"
    )
    for bundle in (good, other, unsigned):
        with open_bundle(bundle):
            pass


def test_a_signature_can_be_taken_off_and_not_moved(tmp_path: Path) -> None:
    signer = signer_in(tmp_path)
    bundle = good_bundle(tmp_path, signer=signer)
    other = good_bundle(tmp_path, signer=signer, content=b"other", model_id="other")
    members = members_of(bundle)
    moved = tar_of(tmp_path / "moved.tar", [members[0], members_of(other)[1], *members[2:]])
    assert "was altered: its signature is not one of its index" in refused(moved)
    assert "was altered" in refused(moved, (signer.public_key,))
    off = tar_of(tmp_path / "off.tar", [members[0], *members[2:]])
    assert "is not signed" in refused(off, (signer.public_key,))
    with open_bundle(off) as opened:
        assert opened.contents.signature is None


def test_a_changed_file_of_a_signed_bundle_installs_nothing(tmp_path: Path) -> None:
    signer = signer_in(tmp_path)
    bundle = good_bundle(tmp_path, signer=signer)
    bundle.write_bytes(bundle.read_bytes().replace(b"weights\0", b"weightz\0"))
    store = Store(tmp_path / "store")
    with (
        pytest.raises(BundleRefused, match=r"is damaged: openvino_model\.bin: sha256"),
        open_bundle(bundle, (signer.public_key,)) as opened,
    ):
        Installer(store=store, progress=Silent()).install(opened)
    assert not store.directory.exists()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 1000,
        b'{"algorithm": "none", "public_key": "", "signature": ""}',
        b'{"algorithm": "ed25519", "public_key": "\xff", "signature": ""}',
    ],
)
def test_what_is_no_signature_is_refused(tmp_path: Path, text: bytes) -> None:
    members = members_of(good_bundle(tmp_path))
    bundle = tar_of(tmp_path / "x.tar", [members[0], ("bundle.sig", text), *members[1:]])
    assert "is damaged: bundle.sig is no signature" in refused(bundle)


def test_a_signature_has_one_form(tmp_path: Path) -> None:
    members = members_of(good_bundle(tmp_path, signer=signer_in(tmp_path)))
    signature = json.loads(members[1][1])
    one_line = json.dumps(signature).encode()
    bundle = tar_of(tmp_path / "x.tar", [members[0], ("bundle.sig", one_line), *members[2:]])
    assert "is not in the one form that a signature has" in refused(bundle)


def test_the_same_key_makes_the_same_bundle(tmp_path: Path) -> None:
    model = install_fake(Store(tmp_path / "store"))
    signer = signer_in(tmp_path)
    made = [write(model, tmp_path / name, signer=signer).file.read_bytes() for name in ("one.tar", "two.tar")]
    assert made[0] == made[1]


def test_a_new_key_is_for_its_owner_alone_and_replaces_none(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    before = os.umask(0)
    try:
        made = make_key(file)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text("ascii").startswith("-----BEGIN PRIVATE KEY-----\n")
    assert read_signer(file).public_key == made.public_key
    with pytest.raises(ConfigError, match=f"the key file {file} can't be made: File exists"):
        make_key(file)
    assert read_signer(file).public_key == made.public_key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o602])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key.pem"
    make_key(file)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"others than its owner may use the key file {file}; run: chmod 600 {file}"):
        read_signer(file)


def test_what_is_no_key_of_ours_is_told(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    passphrase = ("-aes256", "-pass", "pass:secret")
    makers: list[tuple[tuple[str, ...], str]] = [
        (("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"), "is not Ed25519"),
        (("genpkey", "-algorithm", "ed448"), "is not Ed25519"),
        (("genpkey", "-algorithm", "ed25519", *passphrase), "has a passphrase"),
    ]
    for arguments, said in makers:
        openssl(*arguments, "-out", file)
        with pytest.raises(ConfigError, match=f"the key in {file} {said}"):
            read_signer(file)
    for text in (b"", b"\0" * 100, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"x" * 100_000):
        file.write_bytes(text)
        with pytest.raises(ConfigError, match=f"{file} holds no private key in PEM form"):
            read_signer(file)
    public = tmp_path / "public.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", file)
    openssl("pkey", "-in", file, "-pubout", "-out", public)
    public.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no private key"):
        read_signer(public)


def test_a_key_file_that_is_none_does_not_keep_one_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, said in (
        ("pipe", "is not a regular file"),
        (".", "is not a regular file|Is a directory"),
        ("none", "No such file"),
    ):
        with pytest.raises(ConfigError, match=f"the key file .*{said}"):
            read_signer(tmp_path / name)
