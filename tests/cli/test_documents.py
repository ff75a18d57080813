"""What `release` writes beside the weights, that it is signed, stays the same, and leads back to the parents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from cli.backup import BackupRequest, back_up
from cli.documents import FOLDER
from cli.home import Home
from cli.lineage import DECLARED, VERIFIED, Ancestor
from cli.restore import RestoreRequest, restore
from cli.verify import VerifyRequest, VerifyResult, verify
from registry.documents.reference import REFERENCE_PREDICATE
from registry.documents.write import DOCUMENTS
from registry.signing.claims import read_claims
from registry.signing.statement import parse_statement
from tests.cli.owners import make_home, make_release, phrase
from tests.registry.documents.facts import CARD, MANIFEST
from tests.watermark.marks.models import random_weights, write_model
from watermark.errors import DigestError, DocumentError, InputError, SignatureError

CONFIG = {"architectures": ["BertModel"], "model_type": "bert"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("owner") / "home")


def write(folder: Path, seed: int, card: bytes | None = None) -> Path:
    write_model(folder, random_weights(seed=seed))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if card is not None:
        (folder / "README.md").write_bytes(card)
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_bytes())


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def verified(folder: Path, home: Home, *, lineage: bool = False) -> VerifyResult:
    return verify(VerifyRequest(folder, trust=home.trust_path, lineage=home.path if lineage else None))


def test_documents_are_signed_referred_to_and_written_again_bit_for_bit(home: Home, tmp_path: Path) -> None:
    model, manifest = write(tmp_path / "m", 1, CARD), tmp_path / "training.json"
    manifest.write_text(json.dumps(MANIFEST))
    fields = {"name": "m1", "mark": False, "training_manifest": manifest}
    make_release(home, model, tmp_path / "out", **fields)
    shipped = files_of(tmp_path / "out")
    assert set(DOCUMENTS) <= set(shipped)
    assert verified(tmp_path / "out", home).files == 3 + len(DOCUMENTS)

    bom = read(tmp_path / "out", "bom.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is None
    weights = hashlib.sha256(shipped["model.safetensors"]).hexdigest()
    assert bom["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": weights}]
    provenance = read(tmp_path / "out", "provenance.slsa.json")
    assert provenance["subject"] == [{"name": "model.safetensors", "digest": {"sha256": weights}}]
    assert str(tmp_path) not in json.dumps([bom, provenance, read(tmp_path / "out", "model-documentation.json")])

    statements = [parse_statement(claim.bundle.envelope.payload) for claim in read_claims(shipped["claims.jsonl"])]
    referred = {
        one["name"]: one["digest"]["sha256"]
        for statement in statements
        if statement.predicate_type == REFERENCE_PREDICATE
        for one in statement.predicate["references"]
    }
    assert referred == {name: hashlib.sha256(shipped[name]).hexdigest() for name in DOCUMENTS}

    make_release(home, model, tmp_path / "again", **fields)
    assert files_of(tmp_path / "again") == shipped
    make_release(home, model, tmp_path / "without", name="m1", mark=False, documents=False)
    assert files_of(tmp_path / "without") == shipped


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_changed_document_is_found(home: Home, tmp_path: Path, name: str) -> None:
    make_release(home, write(tmp_path / "m", 2), tmp_path / "out", name="m2", mark=False)
    data = (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / name).write_bytes(data.replace(b'"', b"'", 1))
    with pytest.raises(DigestError, match=name):
        verified(tmp_path / "out", home)
    (tmp_path / "out" / name).unlink()
    with pytest.raises(DigestError, match=name):
        verified(tmp_path / "out", home)


def test_kept_documents_are_needed_and_only_those(home: Home, tmp_path: Path) -> None:
    model = write(tmp_path / "m", 3)
    release = make_release(home, model, tmp_path / "out", name="m3", mark=False).release
    kept = home.path / FOLDER / f"{release}.json"
    data = kept.read_bytes()
    for damage in (b"{}", b"[]", data[:-9]):
        kept.write_bytes(damage)
        with pytest.raises(DigestError, match="not kept") as refused:
            make_release(home, model, tmp_path / "again", name="m3", mark=False)
        assert kept.name in refused.value.hint
        assert not (tmp_path / "again").exists()
    kept.write_bytes(data)
    make_release(home, model, tmp_path / "again", name="m3", mark=False)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")


def test_a_backup_takes_the_documents_along(home: Home, tmp_path: Path) -> None:
    make_release(home, write(tmp_path / "m", 4), tmp_path / "out", name="m4", mark=False)
    back_up(BackupRequest(home.path, tmp_path / "b"), phrase, lambda: b"another phrase")
    restore(RestoreRequest(tmp_path / "b", tmp_path / "restored"), lambda: b"another phrase")
    assert files_of(tmp_path / "restored" / FOLDER) == files_of(home.path / FOLDER)


def test_no_documents_when_none_are_wanted(home: Home, tmp_path: Path) -> None:
    model = write(tmp_path / "m", 5)
    (model / "bom.cdx.json").write_text("{}")
    with pytest.raises(InputError, match=r"bom\.cdx\.json of its own") as refused:
        make_release(home, model, tmp_path / "out", name="m5", mark=False)
    assert "--no-documents" in refused.value.hint
    make_release(home, model, tmp_path / "out", name="m5", mark=False, documents=False)
    assert set(DOCUMENTS) & set(files_of(tmp_path / "out")) == {"bom.cdx.json"}
    assert (tmp_path / "out" / "bom.cdx.json").read_text() == "{}"
    assert verified(tmp_path / "out", home).verified


def test_a_strangers_bad_card_is_a_warning_and_an_owners_bad_manifest_an_error(home: Home, tmp_path: Path) -> None:
    model = write(tmp_path / "m", 6, b"---\na: &x 1\nb: *x\n---\n")
    (model / "config.json").write_text('{"a": NaN}')
    result = make_release(home, model, tmp_path / "out", name="m6", mark=False)
    assert [warning.split(" stands")[0] for warning in result.warnings] == [
        "nothing of README.md",
        "nothing of config.json",
    ]
    (tmp_path / "training.json").write_text('{"type": "mine"}')
    with pytest.raises(DocumentError):
        make_release(home, model, tmp_path / "o", name="m6", mark=False, training_manifest=tmp_path / "training.json")


def test_lineage_is_followed_to_where_it_ends(home: Home, tmp_path: Path) -> None:
    """grandchild > child > parent, each released; the parent's card names a model that nobody here knows."""
    parent = write(tmp_path / "parent", 11, CARD)
    first = make_release(home, parent, tmp_path / "out1", name="parent", mark=False)
    child = write(tmp_path / "child", 12)
    second = make_release(home, child, tmp_path / "out2", name="child", version="2", mark=False, base=first.release)
    grandchild = write(tmp_path / "grandchild", 13)
    make_release(home, grandchild, tmp_path / "out3", name="grandchild", mark=False, base=str(tmp_path / "out2"))

    result = verified(tmp_path / "out3", home, lineage=True)
    assert result.lineage is not None
    seen = [(one.depth, one.status, one.ends) for one in result.lineage.ancestors]
    assert seen == [(1, VERIFIED, None), (2, VERIFIED, None), (3, DECLARED, "declared, not in this registry")]
    found: tuple[Ancestor, ...] = result.lineage.ancestors
    assert [one.release for one in found] == [second.release, first.release, None]
    assert [(one.name, one.version) for one in found[:2]] == [("child", "2"), ("parent", "1")]
    assert found[2].name == "nreimers/MiniLM-L6-H384-uncased"
    assert [one.index for one in found[:2]] == [second.copies[0].index, first.copies[0].index]
    assert all(one.owner == "acme" for one in found[:2])


def test_a_parent_is_known_by_its_tensors_too(home: Home, tmp_path: Path) -> None:
    """The unmarked folder, renamed: nothing in it says which release it became."""
    parent = write(tmp_path / "renamed", 14)
    first = make_release(home, parent, tmp_path / "out1", name="by-tensors", mark=False)
    make_release(home, write(tmp_path / "m", 15), tmp_path / "out2", name="of-tensors", mark=False, base=str(parent))
    lineage = verified(tmp_path / "out2", home, lineage=True).lineage
    assert lineage is not None
    assert [(one.status, one.release, one.ends) for one in lineage.ancestors] == [
        (VERIFIED, first.release, "no parent declared")
    ]


def test_without_parents_or_provenance_the_chain_says_so(home: Home, tmp_path: Path) -> None:
    make_release(home, write(tmp_path / "m", 16), tmp_path / "out", name="m16", mark=False)
    lineage = verified(tmp_path / "out", home, lineage=True).lineage
    assert lineage is not None
    assert (lineage.ancestors, lineage.ends) == ((), "no parent declared")
    make_release(home, write(tmp_path / "n", 17), tmp_path / "bare", name="m17", mark=False, documents=False)
    lineage = verified(tmp_path / "bare", home, lineage=True).lineage
    assert lineage is not None
    assert lineage.ends == "the release carries no provenance"


def test_a_parent_whose_release_does_not_hold_breaks_the_chain(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_release(home, write(tmp_path / "p", 18), tmp_path / "out1", name="m18", mark=False)
    make_release(home, write(tmp_path / "c", 19), tmp_path / "out2", name="m19", mark=False, base=first.release)
    assert verified(tmp_path / "out2", home, lineage=True).lineage is not None
    from registry.store.records import CopyRecord, OwnerRecords

    honest = OwnerRecords.copies

    def forged(self: OwnerRecords, release_id: str) -> list[CopyRecord]:
        """The parent's records with a claim that its owner did not sign."""
        from dataclasses import replace

        return [
            replace(one, claims=one.claims.replace(b'"sig":"M', b'"sig":"N', 1)) for one in honest(self, release_id)
        ]

    monkeypatch.setattr(OwnerRecords, "copies", forged)
    with pytest.raises((SignatureError, DocumentError)):
        verified(tmp_path / "out2", home, lineage=True)
