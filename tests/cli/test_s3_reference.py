"""A reference kept in S3: put at release, fetched and compared at every check, and exit 4 when it cannot be had."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from cli.reference_places import keep_in_s3, local_place, place_from
from tests.amazon import moto_endpoint, set_credentials
from tests.cli.command import weightmark
from tests.watermark.marks.models import random_weights, write_model
from watermark.errors import InputError
from watermark.model.directory import open_model


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_credentials(monkeypatch)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


@pytest.fixture
def moto() -> Iterator[str]:
    with moto_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(moto: str) -> Any:
    made = boto3.resource("s3", region_name="us-east-1", endpoint_url=moto).Bucket("references")
    made.create()
    return made


def test_places_of_the_command_line() -> None:
    assert place_from(None) is None
    assert place_from("s3://bucket/a") == "s3://bucket/a"
    assert place_from("dir/a") == Path("dir/a")


def test_folder_and_file_come_back_as_they_were_and_leave_nothing(
    bucket: Any, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import ExitStack

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    model = write_model(tmp_path / "model", random_weights(seed=3))
    for number, source in enumerate((model, next(model.glob("*.safetensors")))):
        place = f"s3://references/{number}?region=us-east-1&endpoint={moto}"
        with open_model(source) as opened:
            names = {entry.path for entry in opened.files}
            assert keep_in_s3(opened, place) == place
        with ExitStack() as stack:
            local = local_place(place, stack)
            with open_model(local) as fetched:
                assert {entry.path for entry in fetched.files} == names
        assert list((tmp_path / "tmp").iterdir()) == []


def test_a_file_with_the_name_of_the_list_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", random_weights(seed=3))
    (model / "weightmark-folder.json").write_text("{}")
    with open_model(model) as opened, pytest.raises(InputError, match="weightmark-folder"):
        keep_in_s3(opened, "s3://references/x?region=us-east-1")


@pytest.mark.slow
def test_release_keeps_and_check_fetches(home: Path, bucket: Any, moto: str, tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model", random_weights(seed=41)), tmp_path / "out"
    place = f"s3://references/mini?region=us-east-1&endpoint={moto}"
    released = weightmark("release", model, "--out", out, "--to", "Globex", "--keep-reference", place, home=home)
    assert released.code == 0, released.err
    shutil.rmtree(model)
    found = weightmark("check", out, "--json", home=home)
    assert (found.code, found.document["verdict"], found.document["recipient"]) == (0, "ours", "Globex")
    assert any(test["name"] == "difference" for test in found.document["tests"])  # the reference was really used
    named = weightmark(
        "check", out, "--reference", place, "--evidence", tmp_path / "evidence.json", "--json", home=home
    )
    assert (named.code, named.document["verdict"]) == (0, "ours")
    assert weightmark("doctor", "--deep", home=home).code == 0
    shown = weightmark("show", released.out.split("release ")[1].split()[0], "--json", home=home)
    assert shown.document["reference"]["is_there"] is None
    key = next(item.key for item in bucket.objects.filter(Prefix="mini/") if item.key.endswith(".safetensors"))
    bucket.put_object(Key=key, Body=b"changed")
    changed = weightmark("check", out, "--json", home=home)
    assert (changed.code, "is not what was kept there" in changed.error["message"]) == (4, True)
    assert weightmark("doctor", "--deep", home=home).code == 1
    bucket.Object("mini/weightmark-folder.json").delete()
    assert weightmark("check", out, home=home).code == 4


@pytest.mark.slow
def test_nothing_is_released_when_the_reference_cannot_be_kept(home: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", random_weights(seed=42))
    with moto_endpoint() as endpoint:
        gone = f"s3://references/mini?region=us-east-1&endpoint={endpoint}"
    done = weightmark("release", model, "--out", tmp_path / "out", "--keep-reference", gone, "--json", home=home)
    assert (done.code, done.error["code"]) == (4, "unavailable")
    assert not (tmp_path / "out").exists()
    assert weightmark("list", "--json", home=home).document["releases"] == []
