from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from registry.signing import backup_file
from registry.signing.backup_file import HEADER, fingerprint, open_backup, seal_backup
from watermark.errors import DocumentError, InputError

FILES = {"manifest.json": b"{}", "home/owner.key": b"canary-key", "registry/log/tile/0/x001/000": bytes(300)}


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal_backup(FILES, b"pw")


def test_files_come_back(sealed: bytes) -> None:
    assert open_backup(sealed, b"pw") == FILES
    assert sealed.startswith(HEADER)
    assert b"canary-key" not in sealed
    assert fingerprint(sealed) == hashlib.sha256(sealed).hexdigest()


def test_wrong_passphrase(sealed: bytes) -> None:
    with pytest.raises(InputError, match="wrong passphrase"):
        open_backup(sealed, b"other")


def test_no_byte_can_be_changed(sealed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.signing.secret._derive", lambda passphrase, salt: hashlib.sha256(salt).digest())
    quick = seal_backup(FILES, b"pw")
    for place in {0, len(HEADER) + 5, *range(len(HEADER), len(quick), 97), len(quick) - 1}:
        changed = bytearray(quick)
        changed[place] ^= 1
        with pytest.raises((InputError, DocumentError)):
            open_backup(bytes(changed), b"pw")
    for cut in (0, 10, len(HEADER), len(HEADER) + 20, len(quick) - 30, len(quick) - 1):
        with pytest.raises((InputError, DocumentError)):
            open_backup(quick[:cut], b"pw")
    with pytest.raises(InputError):
        open_backup(quick + b"x", b"pw")


def test_other_files_are_told_apart() -> None:
    with pytest.raises(DocumentError, match="no backup"):
        fingerprint(b"something else")
    with pytest.raises(DocumentError, match="another version"):
        fingerprint(b"weightmark backup v2\n{}\n")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a//b", "", "a/", "..", "a b", "a\n"])
def test_names_that_leave_the_home_are_refused_on_both_sides(name: str) -> None:
    with pytest.raises(InputError):
        backup_file._pack({name: b""})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DocumentError):
        backup_file._unpack(packed.getvalue())


def test_links_and_doubles_are_refused() -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo("home")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        with pytest.raises(DocumentError):
            backup_file._unpack(packed.getvalue())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
        archive.addfile(tarfile.TarInfo("a"))
    with pytest.raises(DocumentError):
        backup_file._unpack(packed.getvalue())
