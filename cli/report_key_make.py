"""The answer of `weightmark keys make`. Decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.answer import escaped, table

if TYPE_CHECKING:
    from cli.key_make import MadeKey


def json_of_made_key(made: MadeKey) -> dict[str, Any]:
    """The document of `keys make --json`."""
    return {
        "private": str(made.private),
        "public": str(made.public),
        "key": made.key,
        "algorithm": made.algorithm,
        "can_sign_models": made.can_sign_models,
    }


def text_of_made_key(made: MadeKey) -> tuple[str, ...]:
    """The lines of `keys make`."""
    place = escaped(made.private)
    use = f"weightmark sign MODEL --key {place}"
    if not made.can_sign_models:
        use = f"weightmark sign MODEL --also-sign {place}; OMS lets only P-256, P-384 and P-521 sign a model itself"
    return (
        f"MADE   a key of the kind {made.algorithm}, in {place}",
        *table([("public half", made.public), ("key", made.key)]),
        f"  next: {use}",
    )
