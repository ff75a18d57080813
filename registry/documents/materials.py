"""What a model was made from: base models, data sets and code, by name, place and digest, and who says so.

The vocabulary that training manifest, model card, provenance and bill of materials share. Knows no format of theirs and
reads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

from registry.signing.strict_json import as_object
from watermark.errors import DocumentError

BASE, DATASET, CODE = "base-model", "dataset", "code"
COMMAND, MANIFEST, CARD = "command line", "training manifest", "model card"
RELATIONS: Final = ("finetune", "adapter", "quantized", "merge")

#: Digest of a model's tensors whatever their names and container (docs/formats.md); not a digest of any file.
TENSORS_DIGEST: Final = "weightmarkTensors"
#: Names of in-toto DigestSet that are read, and how many hex digits each has.
DIGESTS: Final[Mapping[str, tuple[int, ...]]] = {
    "sha256": (64,),
    "sha384": (96,),
    "sha512": (128,),
    "gitCommit": (40, 64),
    TENSORS_DIGEST: (64,),
}

HUB = "https://huggingface.co/"
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_HEX = re.compile(r"[0-9a-f]+")
_RELEASE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Material:
    """One thing a model was made from.

    `release` is a Weightmark release id. `declared_by` says where this was said; nothing here is verified.
    """

    role: str
    name: str
    declared_by: str
    uri: str | None = None
    version: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    relation: str | None = None
    release: str | None = None
    licence: str | None = None
    modalities: tuple[str, ...] = ()

    @property
    def purl(self) -> str | None:
        """The package URL of what lies on the Hugging Face hub (purl type `huggingface`), else None."""
        if self.role != BASE or self.uri is None or not self.uri.startswith(HUB):
            return None
        name = "/".join(quote(part, safe="") for part in self.uri.removeprefix(HUB).split("/")[:2])
        return f"pkg:huggingface/{name}" + (f"@{quote(self.version, safe='')}" if self.version else "")


def hub_material(role: str, name: str, *, relation: str | None = None) -> Material | None:
    """What a model card's `base_model` or `datasets` names on the Hugging Face hub; None for what is no hub name."""
    if not _HUB_NAME.fullmatch(name):
        return None
    place = HUB + ("datasets/" if role == DATASET else "") + name
    return Material(role, name, CARD, uri=place, relation=relation if relation in RELATIONS else None)


def read_digests(value: Any, what: str) -> dict[str, str]:
    """Read a digest set strictly: known algorithms, lower-case hex of the right length; DocumentError otherwise."""
    found = as_object(value, f"the digest of {what}", allowed=tuple(DIGESTS))
    for algorithm, digits in found.items():
        if not isinstance(digits, str) or not _HEX.fullmatch(digits) or len(digits) not in DIGESTS[algorithm]:
            raise DocumentError(f"the {algorithm} digest of {what} is not lower-case hex of its length")
    return dict(found)


def check_uri(text: str, what: str) -> str:
    """Refuse what is no absolute URI of at most 2,000 characters."""
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise DocumentError(f"the URI of {what} cannot be read: {error}") from error
    if not parts.scheme or len(text) > 2000 or not text.isprintable() or " " in text:
        raise DocumentError(f"the URI of {what} is not an absolute one: {text[:80]!a}")
    return text


def check_release_id(text: str, what: str) -> str:
    """Refuse what is no release id: 32 lower-case hex digits."""
    if not _RELEASE.fullmatch(text):
        raise DocumentError(f"the release of {what} is not 32 lower-case hex digits")
    return text
