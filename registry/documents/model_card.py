"""The front matter of a model card: YAML between two lines `---` at the top of README.md, as on the Hugging Face hub.

A stranger wrote it, so it is read with suspicion: at most 64 KiB, at most 16 levels deep, no aliases (a few lines of
them can mean gigabytes), no tags, no key twice, and dates stay text. Only the few keys that documents use are taken,
and of those only what has the form that the hub describes. Knows no network: names are taken as they stand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from registry.documents.materials import BASE, DATASET, Material, hub_material
from watermark.errors import DocumentError, LimitError

MAX_FRONT_MATTER_BYTES = 64 * 1024
_MAX_DEPTH = 16
_MAX_LISTED = 1000
_WHAT = "the model card's front matter"
_FRONT_MATTER = re.compile(rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class ModelCard:
    """What a model card says of a model, as far as documents have a place for it."""

    materials: tuple[Material, ...] = ()
    licence: str | None = None
    licence_link: str | None = None
    task: str | None = None
    library: str | None = None
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def read_model_card(readme: bytes) -> ModelCard:
    """Read what documents use of a README.md; an empty card when it has no front matter.

    Raises DocumentError for front matter that is no YAML mapping or is not as harmless as it should be, LimitError
    when it is too big.
    """
    match = _FRONT_MATTER.match(readme)
    if match is None:
        if readme.startswith(b"---") and len(readme) > MAX_FRONT_MATTER_BYTES:
            raise LimitError(f"{_WHAT} has more than {MAX_FRONT_MATTER_BYTES} bytes, or no end")
        return ModelCard()
    if len(match[1]) > MAX_FRONT_MATTER_BYTES:
        raise LimitError(f"{_WHAT} has more than {MAX_FRONT_MATTER_BYTES} bytes")
    fields = _load(match[1])
    relation = _text(fields.get("base_model_relation"))
    named = [(BASE, name) for name in _texts(fields.get("base_model"))]
    named += [(DATASET, name) for name in _texts(fields.get("datasets"))]
    materials = (hub_material(role, name, relation=relation if role == BASE else None) for role, name in named)
    licence = _text(fields.get("license"))
    return ModelCard(
        tuple(one for one in materials if one is not None),
        _text(fields.get("license_name")) if licence == "other" else licence,
        _text(fields.get("license_link")),
        _text(fields.get("pipeline_tag")),
        _text(fields.get("library_name")),
        _texts(fields.get("language")),
        _texts(fields.get("tags")),
    )


def _load(data: bytes) -> dict[str, Any]:
    import yaml  # only where a card has front matter

    class CardLoader(yaml.SafeLoader):
        """SafeLoader without aliases, tags, dates, double keys and depth."""

        yaml_implicit_resolvers = {  # noqa: RUF012  as the base class has it
            first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise DocumentError(f"{_WHAT} holds an alias", hint="write the value out where it is used")
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise LimitError(f"{_WHAT} is nested more than {_MAX_DEPTH} levels deep")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) != len(keys):
                raise DocumentError(f"{_WHAT} holds a key twice")
            return super().construct_mapping(node, deep)

    try:
        value = yaml.load(data, Loader=CardLoader)  # noqa: S506  a SafeLoader, made stricter
    except (yaml.YAMLError, ValueError, TypeError) as error:  # YAML's own, odd numbers, keys that cannot be hashed
        detail = " ".join(str(error).split())[:200]
        raise DocumentError(f"{_WHAT} is not YAML: {detail}", hint="correct it, or remove it") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DocumentError(f"{_WHAT} is not a mapping")
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value and value.isprintable() and len(value) <= 500 else None


def _texts(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    found = (_text(one) for one in listed[:_MAX_LISTED])
    return tuple(one for one in found if one is not None)
