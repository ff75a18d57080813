"""The job of `weightmark doctor`: is this home fit to work and to prove?

Looks at keys, permissions, trust file, registry, references and the installation; changes nothing and asks for no
passphrase. Every check has an outcome of its own: one that fails does not hide the next. Without `deep` no weights are
read.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cli.answer import counted
from cli.home import PENDING, Home
from cli.keys import list_keys
from cli.packages import FIX, foreign_package
from cli.reading import cache_root_of
from registry.store.records import ReleaseRecord
from registry.store.s3_folder import is_s3
from watermark.errors import WeightmarkError

LOW_DISK_BYTES = 1 << 30

Progress = Callable[[int], None]


@dataclass(frozen=True)
class DoctorRequest:
    """Whose home to look at; `deep` also reads every reference and computes its digest again."""

    home: Path
    deep: bool = False


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: whether it is well, what was seen, and what to do when it is not."""

    name: str
    well: bool
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Every check in the order it was made."""

    checks: tuple[Check, ...]

    @property
    def well(self) -> bool:
        """Whether nothing was found wrong; never true when nothing was checked."""
        return bool(self.checks) and all(check.well for check in self.checks)


def doctor(request: DoctorRequest, progress: Progress | None = None) -> Diagnosis:
    """Look at a home; InputError only when there is none."""
    home = Home.open(request.home)
    checks = [_permissions(home)]
    checks += _attempt("keys", "restore the file from a backup", _keys, home)
    checks += _attempt("trust file", "restore trust.txt from a backup", _trust, home)
    checks += _attempt("registry", "run `weightmark audit`; do not delete anything", _registry, home)
    checks += _attempt("references", "run `weightmark audit`", _references, home, request.deep, progress)
    checks.append(_disk(home))
    checks.append(_installation())
    return Diagnosis(tuple(checks))


def _attempt(name: str, hint: str, look: Callable[..., Iterator[Check]], *arguments: object) -> list[Check]:
    """Gather the checks of one look; an error of ours that ends it is its last outcome."""
    found: list[Check] = []
    try:
        found.extend(look(*arguments))
    except WeightmarkError as error:
        found.append(Check(name, False, str(error), error.hint or hint))
    except OSError as error:
        found.append(Check(name, False, f"{error.filename}: {error.strerror}", hint))
    return found


def _permissions(home: Home) -> Check:
    status = os.stat(home.path)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        return Check("home", False, f"{home.path} belongs to another user", "let its owner run weightmark, or chown it")
    if mode & 0o077:
        return Check("home", False, f"others may enter {home.path} (mode {mode:04o})", f"chmod 700 {home.path}")
    return Check("home", True, f"{home.path} is closed to others")


def _keys(home: Home) -> Iterator[Check]:
    for key in list_keys(home.path):
        hint = "restore it from a backup"
        if key.problem and key.mode & 0o077:
            hint = f"chmod 600 {home.path / key.name}"
        elif key.problem and key.mode:
            hint = "run `weightmark keys change-passphrase`, or restore it from a backup"
        state = f"is {key.place}" if key.place else "is there and encrypted"
        yield Check("keys", key.problem is None, f"{key.name} {key.problem or state}", hint)
    if (home.path / PENDING).exists():
        yield Check("keys", False, "a change of the passphrase is not finished", "run any command again")


def _trust(home: Home) -> Iterator[Check]:
    policy = home.trust()
    if home.public_key not in policy.owners.get(home.owner, ()):
        yield Check("trust file", False, f"it does not name {home.owner} with the home's own key", "restore the line")
        return
    logs = {log.verifier.name for log in policy.log.logs}  # a log with a second key has two lines
    yield Check(
        "trust file",
        True,
        f"{counted(len(policy.owners), 'owner')}, {counted(len(logs), 'log')}, its own among them",
    )


def _registry(home: Home) -> Iterator[Check]:
    from cli.audit import AuditRequest, audit

    result = audit(AuditRequest(home.path, trust=home.trust_path, registry=home.registry_folder))
    for finding in result.findings:
        yield Check("registry", False, finding.text, "run `weightmark audit`; do not delete anything")
    if result.whole:
        yield Check("registry", True, f"{counted(result.size, 'entry')}, {result.entries_checked} verified")


def _references(home: Home, deep: bool, progress: Progress | None) -> Iterator[Check]:
    with home.registry() as registry:
        releases = registry.records.list_releases()
    for release in releases:
        yield from _attempt(
            "references",
            f"put the reference of {release.name} {release.version} back; `check` needs it for most of its power",
            _reference,
            release,
            deep,
            progress,
        )
    if not releases:
        yield Check("references", True, "nothing was released yet")


def _reference(release: ReleaseRecord, deep: bool, progress: Progress | None) -> Iterator[Check]:
    from cli.reference_places import local_place  # brings the model readers: only where references are looked at

    label = f"{release.name} {release.version}: {release.reference_place}"
    if is_s3(release.reference_place) and not deep:
        yield Check("references", True, f"{label} is in S3, not fetched")
        return
    with ExitStack() as stack:
        yield _reference_at(local_place(release.reference_place, stack), label, release, deep, progress)


def _reference_at(place: Path, label: str, release: ReleaseRecord, deep: bool, progress: Progress | None) -> Check:
    from watermark.model.digest import canonical_digest, digest_tensors
    from watermark.model.directory import open_model

    if not place.exists():
        hint = "put the unmarked model back, or pass --reference to check"
        return Check("references", False, f"{label} is gone", hint)
    with open_model(place, link_root=cache_root_of(place), allow_torch=True) as model:
        if deep:
            digest = canonical_digest(digest_tensors(model, progress).values()).hex()
            same = digest == release.reference_digest
            text = "was read and is unchanged" if same else "holds other weights than were released"
            return Check("references", same, f"{label} {text}", "put the weights of that release back")
        files = [place] if model.is_single_file else [place / shard for shard in model.shards]
    # `created_at` is a whole second: a model written and released within one is not one that changed afterwards.
    changed = [path.name for path in files if int(path.stat().st_mtime) > release.created_at]
    text = f"changed after the release ({', '.join(changed)})" if changed else "is there, not changed since"
    return Check("references", not changed, f"{label} {text}", "run `weightmark doctor --deep` to compare the weights")


def _disk(home: Home) -> Check:
    free = shutil.disk_usage(home.path).free
    text = f"{free / 2**30:.1f} GiB free where the home lies"
    return Check("disk", free >= LOW_DISK_BYTES, text, "free disk space: a full disk stops the log")


def _installation() -> Check:
    problem = foreign_package()
    return Check("installation", problem is None, problem or "watermark, registry and cli are weightmark's own", FIX)
