"""What the answer of `verify` says about a keyless signature: rows and a part of the document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cli.verify import VerifyResult


def rows_of_keyless(result: VerifyResult) -> list[tuple[object, ...]]:
    """Who vouched for the signer, and where the signature is public."""
    if result.keyless is None:
        return []
    facts = result.keyless
    return [
        ("identity", f"{facts.identity}, vouched for by {facts.issuer}"),
        ("public log", f"entry {facts.log_index} of {facts.log}"),
    ]


def json_of_keyless(result: VerifyResult) -> dict[str, Any]:
    """The part `sigstore` of `verify --json`; nothing for other signatures."""
    if result.keyless is None:
        return {}
    facts = result.keyless
    return {
        "sigstore": {
            "identity": facts.identity,
            "issuer": facts.issuer,
            "log": facts.log,
            "log_index": facts.log_index,
        }
    }
