"""Keep a folder of files in S3 and get exactly that folder back: put once, digests checked on every use.

    s3://bucket/prefix/config.json, .../model.safetensors        the files under their own paths
    s3://bucket/prefix/weightmark-folder.json                    their sizes and SHA-256, put last

Every object is created with `If-None-Match: *` and its SHA-256, which S3 checks before it keeps it; what is there with
other bytes is a conflict, with the same bytes it is done already. Above 1 GiB a file goes in parts, each with its
digest (S3 then keeps a digest of digests, so the file's own stands in the list). What comes back is hashed before
anybody sees it. Knows no model.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qsl

from registry.aws import check_endpoint, error_code, make_client, translated_aws_errors
from registry.signing.canonical import canonical
from registry.signing.strict_json import as_object, loads, member
from watermark.errors import ConflictError, InputError, RegistryError, UnavailableError
from watermark.model.names import check_path

SCHEME: Final = "s3://"
LIST_NAME: Final = "weightmark-folder.json"
KIND: Final = "weightmark-folder"
PART_BYTES: Final = 64 << 20
SINGLE_PUT_BYTES: Final = 1 << 30
_MAX_LIST_BYTES = 16 << 20
_CHUNK = 1 << 20
_TAKEN, _RACE = ("PreconditionFailed", "412"), ("ConditionalRequestConflict", "409")
_FORM = "write s3://BUCKET/PREFIX, then if need be ?region=eu-west-1"
_RACE_TRIES = 3


@dataclass(frozen=True)
class S3Place:
    """A parsed place: bucket and prefix, with region and endpoint where the text says them."""

    bucket: str
    prefix: str
    region: str | None
    endpoint: str | None

    def __str__(self) -> str:
        """Bucket and prefix, for messages."""
        return f"{SCHEME}{self.bucket}/{self.prefix}"

    def key(self, name: str) -> str:
        """The key of the object that holds a file."""
        return f"{self.prefix}/{name}"


def is_s3(place: object) -> bool:
    """Whether a place is text that names one in S3."""
    return isinstance(place, str) and place.startswith(SCHEME)


def parse_s3_place(text: str) -> S3Place:
    """Read `s3://BUCKET/PREFIX[?region=..&endpoint=..]`; InputError naming what is wrong."""
    if not text.startswith(SCHEME):
        raise InputError(f"{text[:80]!a} is no place in S3", hint=_FORM)
    path, _, query = text.removeprefix(SCHEME).partition("?")
    bucket, _, prefix = path.partition("/")
    prefix = prefix.strip("/")
    if not bucket or not prefix or not bucket.isascii() or not prefix.isprintable():
        raise InputError(f"{text[:80]!a} names no bucket, or no prefix in it", hint=_FORM)
    options = dict(parse_qsl(query, keep_blank_values=True))
    strangers = sorted(set(options) - {"region", "endpoint"})
    if strangers:
        raise InputError(f"the S3 place has the option {strangers[0][:40]!a}", hint="known: region, endpoint")
    if "endpoint" in options:
        check_endpoint(options["endpoint"])
    return S3Place(bucket, prefix, options.get("region"), options.get("endpoint"))


def put_folder(
    place: S3Place,
    files: Mapping[str, Callable[[], BinaryIO]],
    *,
    single_put_bytes: int = SINGLE_PUT_BYTES,
    part_bytes: int = PART_BYTES,
) -> None:
    """Put every file of a folder, then the list of them; the same again does nothing.

    `files` opens each by its path. Raises ConflictError when other bytes are there, UnavailableError when S3 is out of
    reach, RegistryError when it refuses. Cut off in the middle, the same call goes on: without the list nothing counts.
    """
    client = _client(place)
    listed = []
    for name, open_file in files.items():
        with open_file() as stream:
            size, digest = _measure(stream)
            stream.seek(0)
            check_path(name)
            if size <= single_put_bytes:
                _put_whole(client, place, name, stream, digest)
            else:
                _put_parts(client, place, name, stream, digest, part_bytes)
        listed.append({"path": name, "size": str(size), "sha256": digest.hex()})
    content = canonical({"kind": KIND, "v": 1, "files": listed})
    _put_whole(client, place, LIST_NAME, content, hashlib.sha256(content).digest())


def get_folder(place: S3Place, folder: Path) -> None:
    """Fetch a folder that `put_folder` kept into an empty one; every file has the size and digest that were listed.

    Raises RegistryError when it is not there or was changed, UnavailableError when S3 or the disk cannot serve it.
    """
    client = _client(place)
    files = _read_list(client, place)
    needed = sum(size for size, _ in files.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UnavailableError(
            f"{folder} has {free >> 20:,} MiB free, and {place} needs {needed >> 20:,} MiB",
            hint="free some space, or let TMPDIR name a folder on another disk",
        )
    for name, (size, digest) in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(client, place, name, target, size, digest)


def _measure(stream: BinaryIO) -> tuple[int, bytes]:
    state, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        state.update(chunk)
        size += len(chunk)
    return size, state.digest()


def _put_whole(client: Any, place: S3Place, name: str, body: BinaryIO | bytes, digest: bytes) -> None:
    request = {
        "Bucket": place.bucket,
        "Key": place.key(name),
        "Body": body,
        "ChecksumAlgorithm": "SHA256",
        "ChecksumSHA256": base64.b64encode(digest).decode("ascii"),
        "Metadata": {"sha256": digest.hex()},
        "IfNoneMatch": "*",
    }
    _create(lambda: client.put_object(**request), client, place, name, digest, body)


def _put_parts(client: Any, place: S3Place, name: str, stream: BinaryIO, digest: bytes, part_bytes: int) -> None:
    if _is_there(client, place, name, digest):
        return
    where = {"Bucket": place.bucket, "Key": place.key(name)}
    with _asking(place, "s3:PutObject"):
        upload = client.create_multipart_upload(**where, ChecksumAlgorithm="SHA256", Metadata={"sha256": digest.hex()})[
            "UploadId"
        ]
    try:
        parts: list[dict[str, Any]] = []
        while chunk := stream.read(part_bytes):
            checksum = base64.b64encode(hashlib.sha256(chunk).digest()).decode("ascii")
            part = {"PartNumber": len(parts) + 1, "ChecksumSHA256": checksum}
            with _asking(place, "s3:PutObject"):
                answer = client.upload_part(**where, UploadId=upload, Body=chunk, **part)
            parts.append({**part, "ETag": answer["ETag"]})
        done = {**where, "UploadId": upload, "MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
        _create(lambda: client.complete_multipart_upload(**done), client, place, name, digest, b"")
    except BaseException:
        with _asking(place, "s3:AbortMultipartUpload"):
            client.abort_multipart_upload(**where, UploadId=upload)
        raise


def _create(
    ask: Callable[[], Any], client: Any, place: S3Place, name: str, digest: bytes, body: BinaryIO | bytes
) -> None:
    """Create an object once. Another writer's race (409) is tried again; one that is there must be the same."""
    from botocore.exceptions import ClientError

    for left in reversed(range(_RACE_TRIES)):
        if not isinstance(body, bytes):
            body.seek(0)
        with _asking(place, "s3:PutObject"):
            try:
                ask()
            except ClientError as error:
                if error_code(error) in _TAKEN:
                    break
                if error_code(error) not in _RACE or not left:
                    raise
            else:
                return
    if not _is_there(client, place, name, digest):
        raise ConflictError(
            f"{place}/{name} is there already, with other bytes", hint="keep the reference under another prefix"
        )


def _is_there(client: Any, place: S3Place, name: str, digest: bytes) -> bool:
    """Whether exactly these bytes are there, by the digest that was put with them and, for whole puts, S3's own."""
    from botocore.exceptions import ClientError

    with _asking(place, "s3:GetObject"):
        try:
            found = client.head_object(Bucket=place.bucket, Key=place.key(name), ChecksumMode="ENABLED")
        except ClientError as error:
            if error_code(error) in ("404", "NoSuchKey", "NotFound"):
                return False
            raise
    if found.get("Metadata", {}).get("sha256") != digest.hex():
        return False
    in_parts = found.get("ChecksumType") == "COMPOSITE" or "-" in found.get("ETag", "")
    return in_parts or found.get("ChecksumSHA256") in (None, base64.b64encode(digest).decode("ascii"))


def _read_list(client: Any, place: S3Place) -> dict[str, tuple[int, bytes]]:
    with _asking(place, "s3:GetObject"):
        body = client.get_object(Bucket=place.bucket, Key=place.key(LIST_NAME))["Body"]
        content = body.read(_MAX_LIST_BYTES + 1)
    what = f"the list of files at {place}"
    document = as_object(loads(content, what=what, max_bytes=_MAX_LIST_BYTES), what, allowed=("kind", "v", "files"))
    if document.get("kind") != KIND or document.get("v") != 1:
        raise RegistryError(f"{what} is not of version 1", hint="use a newer weightmark")
    files = {}
    for one in member(document, "files", list, what):
        fields = as_object(one, what, allowed=("path", "size", "sha256"))
        size, digest = member(fields, "size", str, what), member(fields, "sha256", str, what)
        if not size.isdecimal() or len(size) > 18 or len(digest) != 64:
            raise RegistryError(f"{what} is damaged", hint="restore an earlier version of that object")
        files[check_path(member(fields, "path", str, what))] = (int(size), bytes.fromhex(digest))
    return files


def _fetch(client: Any, place: S3Place, name: str, target: Path, size: int, digest: bytes) -> None:
    state, read = hashlib.sha256(), 0
    with _asking(place, "s3:GetObject"):
        body = client.get_object(Bucket=place.bucket, Key=place.key(name))["Body"]
        try:
            with open(target, "xb") as file:
                while read <= size and (chunk := body.read(_CHUNK)):
                    state.update(chunk)
                    read += len(chunk)
                    file.write(chunk)
        except OSError as error:
            raise UnavailableError(f"{target} cannot be written: {error.strerror}", hint="free some space") from error
    if read != size or state.digest() != digest:
        raise RegistryError(
            f"{place}/{name} is not what was kept there: its digest is another",
            hint="restore the earlier version of the object, or pass --reference with a good copy",
        )


def _client(place: S3Place) -> Any:
    with _asking(place, "s3:GetObject"):
        return make_client("s3", region=place.region, endpoint=place.endpoint)


def _asking(place: S3Place, permission: str) -> Any:
    return translated_aws_errors(str(place), permission, RegistryError)
