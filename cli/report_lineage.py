"""Answers about what stands beside a verified model: further signatures on it, and the chain of its parents."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli.answer import counted, escaped, short

if TYPE_CHECKING:
    from cli.also_sign import FurtherSignature
    from cli.lineage import Ancestor
    from cli.sign import SignResult
    from cli.verify import VerifyResult


def json_of_companions(result: VerifyResult) -> dict[str, Any]:
    """What `verify --json` says of further signatures (of a release always) and, when it was asked for, of lineage."""
    document: dict[str, Any] = {}
    if result.owner is not None or result.countersignatures:
        document["countersignatures"] = [asdict(one) for one in result.countersignatures]
    if result.lineage is not None:
        document["lineage"] = {
            "ancestors": [asdict(one) for one in result.lineage.ancestors],
            "ends": result.lineage.ends,
        }
    return document


def rows_of_also_signed(result: SignResult) -> list[tuple[object, ...]]:
    """A row for each further signature that `sign` made."""
    return [("also signed", _text_of_signature(one)) for one in result.also_signed]


def rows_of_companions(result: VerifyResult) -> list[tuple[object, ...]]:
    """A row for each further signature, and one for each ancestor."""
    rows: list[tuple[object, ...]] = [("also signed", _text_of_signature(one)) for one in result.countersignatures]
    if result.lineage is not None:
        rows += [("parent" if one.depth == 1 else "", _text_of_ancestor(one)) for one in result.lineage.ancestors]
        if result.lineage.ends:
            rows.append(("parent", result.lineage.ends))
    return rows


def unchecked_of_companions(result: VerifyResult) -> list[str]:
    """What was there and not verified."""
    unknown = result.unknown_countersignatures
    lines = [f"{counted(unknown, 'signature')} by keys that the trust file does not name"] if unknown else []
    if result.lineage is not None and result.lineage.ancestors:
        lines.append("whether the weights derive from these parents: they are declared (see `weightmark check`)")
    return lines


def _text_of_signature(one: FurtherSignature) -> str:
    owner = f", {escaped(one.owner)}" if one.owner else ""
    return f"{one.algorithm} key {short(one.key)}{owner}"


def _text_of_ancestor(one: Ancestor) -> str:
    label = f"{'  ' * (one.depth - 1)}{one.name}{f' {one.version}' if one.version else ''}"
    kind = f" ({one.relation})" if one.relation else ""
    if one.index is not None and one.release is not None:
        label += f"{kind}, released by {one.owner} as {short(one.release)}, log entry {one.index}"
        return escaped(f"{label}; {one.ends}" if one.ends else label)
    return escaped(f"{label}{kind}: {one.ends}, says the {one.declared_by}")
