"""Read the index of a sharded model: which tensor lies in which shard.

It takes bytes and answers or raises, and opens no file. Whether the shards hold what the index says is for `directory`
to compare.

Format: the `*.safetensors.index.json` of Hugging Face transformers: {"metadata": {...}, "weight_map": {tensor: file}}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from watermark.errors import LimitError, ModelFormatError
from watermark.model.names import check_path
from watermark.model.safetensors import MAX_HEADER_BYTES
from watermark.model.strict_json import JsonCursor, decode_text

INDEX_SUFFIX: Final = ".safetensors.index.json"
TORCH_INDEX_SUFFIX: Final = ".bin.index.json"
_MAX_METADATA_CHARS: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """An index file at `path`, and the shard of each tensor, both as paths from the model's root."""

    path: str
    shard_of: dict[str, str]

    @property
    def shards(self) -> frozenset[str]:
        """The shards that the index names."""
        return frozenset(self.shard_of.values())


def parse_index(data: bytes, path: str, *, limit: int = MAX_HEADER_BYTES) -> ShardIndex:
    """Read the index file at `path`, whose shards lie beside it or below.

    Raises:
        ModelFormatError: not exactly the format, or a tensor stands twice.
        PathEscapeError: a shard's name leads out of the folder.
        LimitError: over `limit` bytes.
    """
    if len(data) > limit:
        raise LimitError(f"{path!a}: over {limit} bytes", hint="an index of this size is no index")
    folder = path.rpartition("/")[0]
    cursor = JsonCursor(decode_text(data, what=ascii(path)), what=ascii(path))
    shard_of: dict[str, str] = {}
    checked: dict[str, str] = {}
    for member in cursor.members():
        if member == "weight_map":
            for tensor in cursor.members():
                shard = cursor.string()
                if shard not in checked:
                    checked[shard] = f"{folder}/{check_path(shard)}" if folder else check_path(shard)
                shard_of[tensor] = checked[shard]
        elif member == "metadata":
            cursor.small_object(_MAX_METADATA_CHARS)
        else:
            raise ModelFormatError(f"{path!a}: the member {member[:80]!a} is unknown")
    cursor.end()
    if not shard_of:
        raise ModelFormatError(f"{path!a}: the weight_map is missing or empty")
    return ShardIndex(path, shard_of)
