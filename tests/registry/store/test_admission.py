"""The log takes in only what the keys of the moment allow, also when two processes are at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.store.admission import KeyAdmission
from registry.store.embedded import EmbeddedRegistry
from tests.registry.example_log import LOG_KEY, ORIGIN
from tests.registry.signing.keychains import event, key_id, owner_entry, release_by
from watermark.errors import (
    DocumentError,
    KeyEventError,
    RetiredKeyError,
    RevokedKeyError,
    ThresholdError,
    UntrustedKeyError,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log that an owner with the keys a and b began."""
    with EmbeddedRegistry.create(tmp_path / "log", ORIGIN, LOG_KEY) as registry:
        registry.append([owner_entry("a"), event("enrol", "ab", 2, new="b")])
    return tmp_path / "log"


def open_log(folder: Path) -> EmbeddedRegistry:
    return EmbeddedRegistry.open(folder, LOG_KEY, admission=KeyAdmission())


def test_what_the_keys_do_not_allow_is_refused_and_leaves_nothing(folder: Path) -> None:
    with open_log(folder) as registry:
        registry.append([event("revoke", "a", 3, old="b", start=2), release_by("a")])
        registry.append([event("rotate", "ac", 4, new="c")])
        checkpoint = registry.checkpoint()
        for entry, error in (
            (b"plain bytes", DocumentError),
            (release_by("h"), UntrustedKeyError),
            (release_by("b"), RevokedKeyError),
            (release_by("a", 1), RetiredKeyError),
            (event("threshold", "c", 6, threshold=1), KeyEventError),
            (event("rotate", "d", 5, new="d"), ThresholdError),
        ):
            with pytest.raises(error):
                registry.append([release_by("c", 1), entry])
        assert registry.checkpoint() == checkpoint
        assert registry.size == 5
        registry.append([release_by("c", 1)])


def test_a_batch_is_judged_in_its_order(folder: Path) -> None:
    with open_log(folder) as registry:
        with pytest.raises(UntrustedKeyError):
            registry.append([release_by("c"), event("enrol", "ac", 3, new="c")])
        assert [one.index for one in registry.append([event("enrol", "ac", 3, new="c"), release_by("c")])] == [2, 3]


def test_two_processes_do_not_both_log_the_next_version(folder: Path) -> None:
    with open_log(folder) as one, open_log(folder) as other:
        one.append([release_by("a")])
        other.append([release_by("a", 1)])
        one.append([event("enrol", "ac", 3, new="c")])
        with pytest.raises(KeyEventError, match="none may be skipped or repeated"):
            other.append([event("enrol", "ad", 3, new="d")])
        other.append([event("enrol", "cd", 4, new="d"), release_by("d")])


def test_what_is_there_already_keeps_its_place_whatever_became_of_its_key(folder: Path) -> None:
    with open_log(folder) as registry:
        registry.append([release_by("b")])
        registry.append([event("revoke", "a", 3, old="b", start=0)])
        assert registry.append([release_by("b")])[0].index == 2


def test_the_ring_is_read_from_what_was_signed(folder: Path) -> None:
    with EmbeddedRegistry.open(folder, LOG_KEY) as registry:
        registry.append([b"no entry at all", release_by("h"), event("rotate", "h", 3, new="h")])
    with open_log(folder) as registry:
        keys = registry.keyring().owners["acme"]
        assert (keys.version, set(keys.keys)) == (2, {key_id("a"), key_id("b")})
        registry.append([event("enrol", "bc", 3, new="c")])
