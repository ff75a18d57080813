"""The trust file: whom a reader believes, as a plain text that a person can read, compare and sign elsewhere.

A C2SP log policy (`log`, `witness`, `group`, `quorum`) with more kinds of line: `owner NAME KEY`, where KEY is the
base64 of the key's SubjectPublicKeyInfo in DER (an owner with several keys has several lines); those of `key_lines`
about the life of these keys; and `tsa NAME ROOT`, where ROOT is the base64 of a time stamping authority's root
certificate in DER. `#` begins a comment; only space and tab separate. Decides nothing: it says which keys count, and
`Policy.verify` of the log part which checkpoints do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.log.note import read_vkey
from registry.log.policy import NO_QUORUM, Log, Policy, parse_policy
from registry.signing.encoding import from_base64, to_base64
from registry.signing.key_lines import LINES as KEY_LINES
from registry.signing.key_lines import KeyLines, LogView, format_key_lines, format_view
from registry.signing.keys import PublicKey, public_key_from_der
from registry.signing.owner_keys import refuse_spent_key
from registry.signing.small_files import read_small_file
from registry.signing.timestamps import StampAuthority, authority
from watermark.errors import DocumentError, InputError, UntrustedKeyError

MAX_TRUST_BYTES = 1 << 20
_OWNER_NAME = re.compile(r"[^\s#]{1,100}")
_SEPARATOR = re.compile(r"[ \t]+")


@dataclass(frozen=True)
class TrustPolicy:
    """Owners with their keys, and the logs and witnesses to believe."""

    owners: Mapping[str, tuple[PublicKey, ...]]
    log: Policy
    authorities: tuple[StampAuthority, ...] = ()  # who is believed about time (RFC 3161)
    thresholds: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)  # (from log index, keys)
    revoked: Mapping[str, int] = field(default_factory=dict)
    retired: Mapping[str, int] = field(default_factory=dict)
    viewed: Mapping[str, LogView] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """Every owner's keys."""
        return tuple(key for keys in self.owners.values() for key in keys)

    @property
    def log_vkeys(self) -> tuple[str, ...]:
        """The trusted logs' verifier keys, as C2SP text."""
        return tuple(log.verifier.vkey for log in self.log.logs)

    def owner_of(self, key: PublicKey) -> str:
        """The owner who holds this key; UntrustedKeyError when nobody in the file does."""
        for name, keys in self.owners.items():
            if key in keys:
                return name
        raise UntrustedKeyError(f"the trust file names no owner of key {key.key_id[:16]}")

    def threshold_of(self, owner: str, index: int) -> int:
        """How many of the owner's keys must sign a release at a log index; 1 where the file does not say."""
        return next((m for start, m in reversed(self.thresholds.get(owner, ())) if start <= index), 1)

    def refuse_spent(self, key: PublicKey, index: int) -> None:
        """Raise RevokedKeyError or RetiredKeyError when what this key signed at a log index does not count."""
        refuse_spent_key(
            key.key_id, index, revoked_from=self.revoked.get(key.key_id), retired_from=self.retired.get(key.key_id)
        )


def check_owner_name(name: str) -> str:
    """Refuse an owner's name that could not stand in a trust file: at most 100 characters, no space, no `#`."""
    if not _OWNER_NAME.fullmatch(name) or not name.isprintable():
        raise InputError(
            f"{name!a} cannot be an owner's name", hint="use letters and digits without spaces, as in acme"
        )
    return name


def parse_trust(text: str) -> TrustPolicy:
    """Read a trust file; DocumentError naming the line that is wrong, InputError for a key that may not be enrolled.

    A key belongs to one owner. A file without a `quorum` line asks for no witness.
    """
    owners: dict[str, tuple[PublicKey, ...]] = {}
    taken: set[PublicKey] = set()
    rest: list[str] = []
    key_lines = KeyLines(owners)
    has_quorum = False
    authorities: list[StampAuthority] = []
    for number, line in enumerate(text.split("\n"), start=1):
        words = [word for word in _SEPARATOR.split(line.partition("#")[0].rstrip("\r")) if word]
        if words[:1] == ["tsa"]:
            rest.append("")  # so that the policy reader counts the same lines
            authorities.append(_read_authority(words, f"trust file, line {number}", authorities))
            continue
        if words[:1] and words[0] in KEY_LINES:
            key_lines.read(words, f"trust file, line {number}")
            rest.append("")
            continue
        if not words or words[0] != "owner":
            rest.append(" ".join(words))
            has_quorum = has_quorum or words[:1] == ["quorum"]
            continue
        rest.append("")  # so that the policy reader counts the same lines
        name, key = _read_owner(words, f"trust file, line {number}")
        if key in taken:
            raise DocumentError(f"trust file, line {number}: key {key.key_id[:16]} stands in this file already")
        taken.add(key)
        owners[name] = (*owners.get(name, ()), key)
    if not has_quorum:
        rest.append(f"quorum {NO_QUORUM}")
    log = parse_policy("\n".join(rest))
    key_lines.check([one.verifier.name for one in log.logs])
    return TrustPolicy(
        owners,
        log,
        tuple(authorities),
        key_lines.thresholds,
        key_lines.revoked,
        key_lines.retired,
        key_lines.viewed,
    )


def read_trust(path: Path) -> TrustPolicy:
    """Read a trust file; InputError when it cannot be read, DocumentError naming what is wrong in it."""
    data = read_small_file(path, what="the trust file", max_bytes=MAX_TRUST_BYTES)
    try:
        return parse_trust(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DocumentError(f"the trust file {path} is not UTF-8 text") from error


def format_trust(policy: TrustPolicy) -> str:
    """Write a trust file that `parse_trust` reads back as the same policy."""
    lines = ["# Whom to believe. Compare this file with its owner's by a way that you trust."]
    for name, keys in policy.owners.items():
        lines += [f"owner {check_owner_name(name)} {to_base64(key.der)}" for key in keys]
        key_ids = [key.key_id for key in keys]
        lines += format_key_lines(name, key_ids, policy.thresholds.get(name, ()), policy.revoked, policy.retired)
    lines += [f"tsa {check_owner_name(one.name)} {to_base64(one.root)}" for one in policy.authorities]
    lines += [_line("log", log.verifier.vkey, log.url) for log in policy.log.logs]
    lines += [_line("witness", one.name, one.verifier.vkey, one.url) for one in policy.log.witnesses]
    lines += [f"group {group.name} {group.needed} {' '.join(group.members)}" for group in policy.log.groups]
    lines.append(f"quorum {policy.log.quorum or NO_QUORUM}")
    lines += [format_view(view) for view in policy.viewed.values()]
    return "\n".join([*lines, ""])


def trust_of(owners: Mapping[str, tuple[PublicKey, ...]], log_vkeys: tuple[str, ...]) -> TrustPolicy:
    """A policy of these owners and logs, without witnesses: what a new registry starts with."""
    return TrustPolicy(dict(owners), Policy(tuple(Log(read_vkey(vkey)) for vkey in log_vkeys), (), (), None))


def _read_owner(words: list[str], where: str) -> tuple[str, PublicKey]:
    if len(words) != 3:
        raise DocumentError(f"{where}: owner takes a name and a key")
    if not _OWNER_NAME.fullmatch(words[1]):
        raise DocumentError(f"{where}: {words[1]!a} cannot be an owner's name")
    der = from_base64(words[2], what=f"the key in {where}")
    return words[1], public_key_from_der(der, what=f"the key in {where}")


def _read_authority(words: list[str], where: str, known: Sequence[StampAuthority]) -> StampAuthority:
    if len(words) != 3:
        raise DocumentError(f"{where}: tsa takes a name and a root certificate")
    if not _OWNER_NAME.fullmatch(words[1]):
        raise DocumentError(f"{where}: {words[1]!a} cannot be the name of a time stamping authority")
    found = authority(words[1], from_base64(words[2], what=f"the certificate in {where}"), what=f"{where}: it")
    if any(one.root == found.root for one in known):
        raise DocumentError(f"{where}: this certificate stands in this file already")
    return found


def _line(*words: str | None) -> str:
    return " ".join(word for word in words if word is not None)
