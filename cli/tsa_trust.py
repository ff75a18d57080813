"""The job of `weightmark keys trust-tsa`: believe a time stamping authority from now on, by a line in the trust file.

It is this reader's belief alone: `keys export` leaves it out, since a stranger must not take his clock from the
claimant. Comments and order of the file stay as they are. Prints nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.home import Home
from registry.signing.encoding import to_base64
from registry.signing.small_files import read_small_file, replace_file
from registry.signing.timestamps import StampAuthority, read_authorities
from registry.signing.trust import MAX_TRUST_BYTES, check_owner_name, parse_trust
from watermark.errors import DocumentError


@dataclass(frozen=True)
class TrustedAuthority:
    """What was added: the name, how the root certificates name themselves, and the file they stand in now."""

    name: str
    roots: tuple[str, ...]
    trust: Path


def trust_tsa(home_folder: Path, name: str, pem: Path) -> TrustedAuthority:
    """Add the root certificates of a PEM file to the home's trust file under `name`.

    Raises InputError for a name with spaces or a certificate that is no root, DocumentError for one that is there.
    """
    home = Home.open(home_folder)
    check_owner_name(name)
    found = read_authorities(pem)
    data = read_small_file(home.trust_path, what="the trust file", max_bytes=MAX_TRUST_BYTES)
    text = data.decode("utf-8", errors="strict")
    known = {one.root for one in parse_trust(text).authorities}
    if any(one.root in known for one in found):
        raise DocumentError(
            f"{pem} holds a certificate that stands in the trust file already", hint=f"see {home.trust_path}"
        )
    lines = "".join(f"{_line(name, one)}\n" for one in found)
    changed = text + ("" if text.endswith("\n") or not text else "\n") + lines
    parse_trust(changed)
    replace_file(home.trust_path, changed.encode("utf-8"))
    return TrustedAuthority(name, tuple(one.name for one in found), home.trust_path)


def _line(name: str, authority: StampAuthority) -> str:
    return f"tsa {name} {to_base64(authority.root)}"
