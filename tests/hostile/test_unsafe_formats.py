"""Files that can run code are told by their content and refused, and nothing of them is run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.hostile.headers import good_file
from tests.hostile.pickles import payloads, torch_archive, wrappings
from watermark.errors import InputError, ModelFormatError, UnsafeFormatError
from watermark.model.directory import open_model

PROGRAM = b"cos\nsystem\n(S'touch /tmp/never'\ntR."

# Opens every file it is given while a hook counts what no reading of weights needs.
WATCH = """
import json, sys
from pathlib import Path
from watermark.errors import WeightmarkError
from watermark.model.directory import open_model
for warm in (sys.argv[1], sys.argv[1] + "/absent"):
    try:
        open_model(Path(warm)).close()
    except WeightmarkError:
        pass
fired = []
def hook(event, arguments):
    is_write = event == "open" and (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
                                    or isinstance(arguments[2], int) and arguments[2] & 0b11)
    if is_write or event in ("exec", "compile", "import", "os.system", "subprocess.Popen", "os.exec", "os.fork",
                             "os.mkdir", "pickle.find_class", "marshal.loads") or event.startswith("socket."):
        fired.append(event)
sys.addaudithook(hook)
codes = {}
for path in sorted(Path(sys.argv[2]).iterdir()):
    try:
        open_model(path).close()
        codes[path.name] = "opened"
    except WeightmarkError as error:
        codes[path.name] = error.code
print(json.dumps({"fired": fired, "codes": codes}))
"""


def test_no_pickle_is_touched(tmp_path: Path) -> None:
    good, corpus, mark = tmp_path / "good", tmp_path / "corpus", tmp_path / "mark"
    good.mkdir()
    (good / "model.safetensors").write_bytes(good_file())
    corpus.mkdir()
    number = 0
    for program in payloads(mark, 9).values():
        for name, content in wrappings(program).items():
            (corpus / f"{number:04}").mkdir()
            (corpus / f"{number:04}" / name).write_bytes(content)
            (corpus / f"{number:04}-{name}").write_bytes(content)
            number += 1
    assert number > 200
    run = subprocess.run([sys.executable, "-c", WATCH, str(good), str(corpus)], capture_output=True, check=True)
    outcome = json.loads(run.stdout)
    assert outcome["fired"] == []
    assert len(outcome["codes"]) == 2 * number
    # Old pickles have no first bytes of their own, so a few are only known to be no safetensors file.
    assert set(outcome["codes"].values()) <= {"unsafe-format", "model-format", "limit", "input"}
    refused = [code for code in outcome["codes"].values() if code == "unsafe-format"]
    assert len(refused) > 1.8 * number
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.pt", "weights.bin", "x.pth", "x.ckpt", "x.pkl", "x.npy", "x.h5", "x.keras"])
def test_folder_with_only_such_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"\x80\x04" + PROGRAM)
    with pytest.raises(UnsafeFormatError, match="pickle") as caught:
        open_model(tmp_path)
    assert "safetensors" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["x.pkl", "x.npy", "x.h5", "x.keras", "x.ckpt", "x.joblib", "noname"])
def test_only_torch_suffixes_are_read_when_torch_is_allowed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(torch_archive(PROGRAM))
    with pytest.raises(UnsafeFormatError, match="zip archive"):
        open_model(tmp_path / name, allow_torch=True)


def test_large_file_under_a_plain_name_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\x80\x04" + bytes(1 << 20))
    with pytest.raises(UnsafeFormatError, match="pickle"):
        open_model(tmp_path)


def gzip_bytes() -> bytes:
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(bytes(1000)) + compressor.flush()


def tar_bytes() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))
    return file.getvalue()


CONTENTS: dict[str, tuple[bytes, type[InputError], str]] = {
    "pickle": (b"\x80\x02}q\x00.", UnsafeFormatError, "pickle"),
    "old pickle": (b"(dp0\n.", UnsafeFormatError, "pickle"),
    "zip": (torch_archive(b""), UnsafeFormatError, "zip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), UnsafeFormatError, "HDF5"),
    "numpy": (b"\x93NUMPY\x01\x00" + bytes(40), UnsafeFormatError, "numpy"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(40), UnsafeFormatError, "GGUF"),
    "tar": (tar_bytes(), UnsafeFormatError, "tar"),
    "gzip": (gzip_bytes(), UnsafeFormatError, "compressed"),
    "zstandard": (b"\x28\xb5\x2f\xfd" + bytes(40), UnsafeFormatError, "compressed"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(40), UnsafeFormatError, "TensorFlow Lite"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ModelFormatError, "Git LFS pointer"),
    "text": (b"hello, this is no model at all", ModelFormatError, "header"),
    "nothing": (b"", ModelFormatError, "too short"),
}


@pytest.mark.parametrize(("content", "error", "text"), CONTENTS.values(), ids=CONTENTS.keys())
def test_wrong_content_under_a_right_name_is_named(
    tmp_path: Path, content: bytes, error: type[InputError], text: str
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(error, match=text):
            open_model(path)


def test_header_length_that_looks_like_another_format_is_still_read(tmp_path: Path) -> None:
    # 0x8b1f is how gzip begins, and a possible header length.
    header = b'{"__metadata__":{"k":"' + b"x" * (0x8B1F - 26) + b'"}}'
    assert len(header) == 0x8B1F - 1
    (tmp_path / "model.safetensors").write_bytes((0x8B1F).to_bytes(8, "little") + header + b" ")
    with open_model(tmp_path) as model:
        assert model.tensors == {}


def test_git_lfs_pointer_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(CONTENTS["git lfs"][0])
    with pytest.raises(ModelFormatError) as caught:
        open_model(tmp_path)
    assert "git lfs pull" in str(caught.value.hint)


def test_archive_beside_the_weights_is_carried_and_never_unfolded(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(good_file())
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 24))
    with open_model(tmp_path) as model:
        with model.open_file("bomb.zip") as file:
            assert len(file.read()) == (tmp_path / "bomb.zip").stat().st_size < 1 << 17
        assert model.carried_weights == ()
