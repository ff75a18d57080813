"""The job of `weightmark audit`: is the registry whole and honest?

Reads the home's trust file for the keys of its log, and the registry folder; writes nothing and loads no model. The
judging is done in `registry.monitor`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.home import REGISTRY, TRUST
from registry.log.note import MAX_NOTE_BYTES
from registry.monitor import AuditResult
from registry.monitor import audit as audit_folder
from registry.signing.small_files import read_small_file
from registry.signing.trust import read_trust
from watermark.errors import InputError


@dataclass(frozen=True)
class AuditRequest:
    """What to audit: the home whose registry it is, and a checkpoint file trusted from before, if there is one.

    `trust` and `registry` replace the home's own trust file and registry folder. `progress` hears bytes of entries.
    """

    home: Path
    since: Path | None = None
    trust: Path | None = None
    registry: Path | None = None
    progress: Callable[[int], None] | None = None


def audit(request: AuditRequest) -> AuditResult:
    """Audit the registry of a home; the result says whether it is whole, and every damage is one finding in it.

    Raises InputError when there is nothing to audit or nobody to trust: nothing checked is never whole.
    """
    trust = request.trust or request.home / TRUST
    folder = request.registry or request.home / REGISTRY
    if not folder.is_dir():
        raise InputError(f"{folder}: no registry here", hint="run `weightmark init`, or set WEIGHTMARK_HOME")
    vkeys = read_trust(trust).log_vkeys
    if not vkeys:
        raise InputError(f"{trust}: names no log", hint="add the line `log VKEY` with the log's verifier key")
    since = None
    if request.since is not None:
        since = read_small_file(request.since, what="the trusted checkpoint", max_bytes=MAX_NOTE_BYTES)
    return audit_folder(folder, vkeys, since, progress=request.progress)
