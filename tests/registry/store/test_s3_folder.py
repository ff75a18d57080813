from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import boto3
import pytest

from registry.store import s3_folder
from registry.store.s3_folder import LIST_NAME, S3Place, get_folder, is_s3, parse_s3_place, put_folder
from tests.amazon import moto_endpoint, set_credentials
from watermark.errors import ConflictError, DocumentError, InputError, PathEscapeError, RegistryError, UnavailableError

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 64, "sub/tokenizer.json": b"[]"}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    set_credentials(monkeypatch)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(moto: str, request: pytest.FixtureRequest) -> Any:
    """A fresh bucket, as boto3 sees it; its name is that of the test."""
    name = request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[:50].rstrip("-").lower()
    made = boto3.resource("s3", region_name="us-east-1", endpoint_url=moto).Bucket(name)
    made.create()
    return made


@pytest.fixture
def place(bucket: Any, moto: str) -> S3Place:
    return parse_s3_place(f"s3://{bucket.name}/refs/mini?region=us-east-1&endpoint={moto}")


def opened(files: dict[str, bytes]) -> dict[str, Callable[[], BinaryIO]]:
    return {name: lambda data=data: io.BytesIO(data) for name, data in files.items()}  # type: ignore[misc]


def fetched(place: S3Place, folder: Path) -> dict[str, bytes]:
    get_folder(place, folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_comes_back_with_s3_own_digest_of_each_object(bucket: Any, place: S3Place, tmp_path: Path) -> None:
    put_folder(place, opened(FILES))
    assert fetched(place, tmp_path) == FILES
    keys = {item.key for item in bucket.objects.all()}
    assert keys == {f"refs/mini/{name}" for name in (*FILES, LIST_NAME)}
    client = bucket.meta.client
    found = client.head_object(Bucket=bucket.name, Key="refs/mini/config.json", ChecksumMode="ENABLED")
    assert found["ChecksumSHA256"] == "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="  # of {}


def test_the_same_again_does_nothing_and_other_bytes_are_a_conflict(bucket: Any, place: S3Place) -> None:
    put_folder(place, opened(FILES))
    before = {item.key: item.last_modified for item in bucket.objects.all()}
    put_folder(place, opened(FILES))
    assert {item.key: item.last_modified for item in bucket.objects.all()} == before
    with pytest.raises(ConflictError, match=r"config\.json is there already"):
        put_folder(place, opened({**FILES, "config.json": b"[]"}))
    with pytest.raises(ConflictError, match=LIST_NAME):
        put_folder(place, opened({**FILES, "more.txt": b"x"}))


def test_big_files_go_in_parts(bucket: Any, place: S3Place, tmp_path: Path) -> None:
    big = bytes(range(256)) * (24 << 10)  # 6 MiB: S3 takes no smaller parts than 5, but for the last
    files = {"big.bin": big, "small.bin": b"x"}
    for _ in range(2):
        put_folder(place, opened(files), single_put_bytes=1 << 20, part_bytes=5 << 20)
    assert fetched(place, tmp_path) == files
    assert "-2" in bucket.Object("refs/mini/big.bin").e_tag
    with pytest.raises(ConflictError):
        put_folder(place, opened({"big.bin": big[:-1] + b"y"}), single_put_bytes=1 << 20, part_bytes=5 << 20)
    uploads = bucket.meta.client.list_multipart_uploads(Bucket=bucket.name)
    assert "Uploads" not in uploads  # what was not completed was given up, and costs nobody anything


def test_changed_objects_are_refused(bucket: Any, place: S3Place, tmp_path: Path) -> None:
    put_folder(place, opened(FILES))
    for number, other in enumerate((b"[]", b"{", b"{} ", b"")):
        bucket.put_object(Key="refs/mini/config.json", Body=other)
        (tmp_path / str(number)).mkdir()
        with pytest.raises(RegistryError, match=r"config\.json is not what was kept") as raised:
            get_folder(place, tmp_path / str(number))
        assert raised.value.exit_code == 4


def test_lost_objects_and_lost_lists_are_told(bucket: Any, place: S3Place, tmp_path: Path) -> None:
    put_folder(place, opened(FILES))
    bucket.Object("refs/mini/config.json").delete()
    with pytest.raises(RegistryError, match="is not there"):
        get_folder(place, tmp_path)
    bucket.Object(f"refs/mini/{LIST_NAME}").delete()
    with pytest.raises(RegistryError, match="is not there"):
        get_folder(place, tmp_path)
    with pytest.raises(RegistryError, match="bucket that does not exist"):
        get_folder(S3Place("no-such-bucket", "x", place.region, place.endpoint), tmp_path)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"path": "../escaped"}, PathEscapeError),
        ({"path": "/etc/passwd"}, PathEscapeError),
        ({"size": "-1"}, RegistryError),
        ({"sha256": "00"}, RegistryError),
        ({"colour": "red"}, DocumentError),
    ],
    ids=["up", "root", "size", "digest", "key"],
)
def test_hostile_lists_write_nothing(
    bucket: Any, place: S3Place, tmp_path: Path, change: dict[str, str], kind: type[Exception]
) -> None:
    put_folder(place, opened(FILES))
    listed = json.loads(bucket.Object(f"refs/mini/{LIST_NAME}").get()["Body"].read())
    listed["files"][0].update(change)
    bucket.put_object(Key=f"refs/mini/{LIST_NAME}", Body=json.dumps(listed).encode())
    (tmp_path / "inner").mkdir()
    with pytest.raises(kind):
        get_folder(place, tmp_path / "inner")
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_too_little_disk_is_told_before_anything_is_fetched(
    place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_folder(place, opened(FILES))
    usage = s3_folder.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(s3_folder.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(UnavailableError, match="MiB free"):
        get_folder(place, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nobody_there(tmp_path: Path) -> None:
    with moto_endpoint() as endpoint:
        gone = parse_s3_place(f"s3://bucket/prefix?region=us-east-1&endpoint={endpoint}")
    with pytest.raises(UnavailableError, match="did not answer"):
        get_folder(gone, tmp_path)


def test_places_are_read() -> None:
    place = parse_s3_place("s3://bucket/a/b/?region=eu-west-1")
    assert (place.bucket, place.prefix, place.region, str(place)) == ("bucket", "a/b", "eu-west-1", "s3://bucket/a/b")
    assert is_s3("s3://bucket/a")
    assert not is_s3("/data/s3://")
    assert not is_s3(Path("s3://bucket/a"))


@pytest.mark.parametrize(
    "text", ["s3://", "s3://bucket", "s3://bucket/", "s3:///a", "s3://b/a?x=1", "s3://b/a?endpoint=http://far.example"]
)
def test_bad_places_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_s3_place(text)
