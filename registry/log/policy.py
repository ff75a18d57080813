"""Trust policies for logs: which logs, which witnesses, and how many of them must agree (C2SP tlog-policy).

A line-based text: `log VKEY [URL]`, `witness NAME VKEY [URL]`, `group NAME all|any|K MEMBER...` and exactly one
`quorum NAME|none`; `#` begins a comment, space and tab separate. Names are defined before they are used. Knows no
owners and no files.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from registry.log.checkpoint import Checkpoint, verify_checkpoint
from registry.log.cosignature import Cosignature, verify_cosignatures
from registry.log.decimal_text import read_decimal
from registry.log.note import (
    ED25519_COSIGNATURE,
    ED25519_NOTE,
    ML_DSA_44_COSIGNATURE,
    NoteVerifier,
    parse_note,
    read_vkey,
)
from watermark.errors import DocumentError, UntrustedKeyError

_SEPARATOR = re.compile(r"[ \t]+")
NO_QUORUM = "none"


@dataclass(frozen=True)
class Log:
    """A trusted key of a log and, if given, where the log is served. A log with two keys has two of these."""

    verifier: NoteVerifier
    url: str | None = None


@dataclass(frozen=True)
class Witness:
    """A trusted witness: its name in this policy, its verifier and, if given, where it is asked."""

    name: str
    verifier: NoteVerifier
    url: str | None = None


@dataclass(frozen=True)
class Group:
    """A number of witnesses or groups of which `needed` must agree."""

    name: str
    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """A parsed policy. `quorum` names a witness or group, or is None where a log's own signature is enough."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[Group, ...]
    quorum: str | None

    def verify(self, data: bytes) -> tuple[Checkpoint, tuple[Cosignature, ...]]:
        """Return a checkpoint that satisfies this policy with its cosignatures, or raise UntrustedKeyError.

        Damaged notes raise DocumentError, a trusted key's wrong signature SignatureError.
        """
        note = parse_note(data)
        checkpoint = verify_checkpoint(note, tuple(log.verifier for log in self.logs))
        cosignatures = verify_cosignatures(note, tuple(witness.verifier for witness in self.witnesses))
        agreed = {witness.name for witness in self.witnesses if witness.verifier in {c.verifier for c in cosignatures}}
        if self.quorum is not None and self.quorum not in self._reached(agreed):
            raise UntrustedKeyError(
                f"checkpoint of {checkpoint.origin}: cosigned by {', '.join(sorted(agreed)) or 'nobody'}, "
                f"which does not reach the quorum {self.quorum}"
            )
        return checkpoint, cosignatures

    def agreed_at(self, cosignatures: Collection[Cosignature]) -> int | None:
        """When the quorum had agreed, by its witnesses' clocks (POSIX seconds); None without one, or short of it."""
        for time in sorted({one.time for one in cosignatures}):
            keys = {one.verifier for one in cosignatures if one.time <= time}
            if self.quorum in self._reached({witness.name for witness in self.witnesses if witness.verifier in keys}):
                return time
        return None

    def _reached(self, agreed: Collection[str]) -> set[str]:
        """The witnesses and groups that agree; groups stand after their members, so one pass is enough."""
        reached = set(agreed)
        for group in self.groups:
            if sum(member in reached for member in group.members) >= group.needed:
                reached.add(group.name)
        return reached


@dataclass
class _Draft:
    """A policy while its lines are read."""

    logs: list[Log] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    quorums: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    grouped: set[str] = field(default_factory=set)
    keys: set[bytes] = field(default_factory=set)


def parse_policy(text: str) -> Policy:
    """Read a policy text, or raise DocumentError naming the line that is wrong."""
    draft = _Draft()
    readers = {"log": _read_log, "witness": _read_witness, "group": _read_group, "quorum": _read_quorum}
    for number, line in enumerate(text.split("\n"), start=1):
        words = [word for word in _SEPARATOR.split(line.partition("#")[0]) if word]
        if not words:
            continue
        read = readers.get(words[0])
        where = f"policy line {number}"
        if read is None:
            raise DocumentError(f"{where}: {words[0][:40]!r} is not log, witness, group or quorum")
        read(draft, words[1:], where)
    if len(draft.quorums) != 1:
        raise DocumentError(f"policy: {len(draft.quorums)} quorum lines, not one")
    quorum = None if draft.quorums[0] == NO_QUORUM else draft.quorums[0]
    return Policy(tuple(draft.logs), tuple(draft.witnesses), tuple(draft.groups), quorum)


def _read_log(draft: _Draft, words: list[str], where: str) -> None:
    if len(words) not in (1, 2):
        raise DocumentError(f"{where}: log takes a verifier key and perhaps a URL")
    verifier = _new_key(draft, words[0], (ED25519_NOTE, ML_DSA_44_COSIGNATURE), where)
    draft.logs.append(Log(verifier, words[1] if len(words) > 1 else None))


def _read_witness(draft: _Draft, words: list[str], where: str) -> None:
    if len(words) not in (2, 3):
        raise DocumentError(f"{where}: witness takes a name, a verifier key and perhaps a URL")
    verifier = _new_key(draft, words[1], (ED25519_COSIGNATURE, ML_DSA_44_COSIGNATURE), where)
    name = _new_name(draft, words[0], where)
    draft.witnesses.append(Witness(name, verifier, words[2] if len(words) > 2 else None))


def _read_group(draft: _Draft, words: list[str], where: str) -> None:
    if len(words) < 3:
        raise DocumentError(f"{where}: group takes a name, all, any or a number, and its members")
    members = tuple(words[2:])
    for member in members:
        if member not in draft.names:
            raise DocumentError(f"{where}: {member!r} is not defined before this line")
        if member in draft.grouped:
            raise DocumentError(f"{where}: {member!r} belongs to a group already")
        draft.grouped.add(member)
    if words[1] in ("all", "any"):
        needed = len(members) if words[1] == "all" else 1
    else:
        needed = read_decimal(words[1], what=where)
    if not 1 <= needed <= len(members):
        raise DocumentError(f"{where}: {needed} of {len(members)} members cannot be asked for")
    draft.groups.append(Group(_new_name(draft, words[0], where), needed, members))


def _read_quorum(draft: _Draft, words: list[str], where: str) -> None:
    if len(words) != 1:
        raise DocumentError(f"{where}: quorum takes one name, or none")
    if words[0] != NO_QUORUM and words[0] not in draft.names:
        raise DocumentError(f"{where}: {words[0]!r} is not defined before this line")
    draft.quorums.append(words[0])


def _new_name(draft: _Draft, name: str, where: str) -> str:
    if name == NO_QUORUM or name in draft.names:
        raise DocumentError(f"{where}: the name {name!r} is taken")
    draft.names.add(name)
    return name


def _new_key(draft: _Draft, vkey: str, algorithms: Collection[int], where: str) -> NoteVerifier:
    verifier = read_vkey(vkey)
    if verifier.algorithm not in algorithms:
        raise DocumentError(f"{where}: the key of {verifier.name} is of type 0x{verifier.algorithm:02x}")
    if verifier.public in draft.keys:
        raise DocumentError(f"{where}: the key of {verifier.name} stands in this policy already")
    draft.keys.add(verifier.public)
    return verifier
