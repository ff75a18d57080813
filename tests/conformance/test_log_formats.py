"""The log's formats byte for byte: examples computed independently from RFC 6962 and the C2SP documents."""

from __future__ import annotations

import base64
import hashlib

import pytest

from registry.log.checkpoint import Checkpoint, read_checkpoint, sign_checkpoint
from registry.log.cosignature import cosign, cosignature_message, verify_cosignatures
from registry.log.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_from,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from registry.log.note import ED25519_COSIGNATURE, Note, NoteSigner, NoteVerifier, parse_note, read_vkey
from registry.log.policy import parse_policy
from registry.log.proof import TlogProof, read_proof, verify_proof, write_proof
from registry.log.tiles import ENTRIES, Tile, TileHashes, encode_bundle, parse_path, subtree_of, tiles_between
from registry.log.witness import AddCheckpoint, parse_add_checkpoint, witness_log_id
from tests.registry.example_log import LOG_KEY, ORIGIN, WITNESS_KEY

ENTRIES_OF_5 = b"alpha beta gamma delta epsilon".split()
LEAVES = [leaf_hash(entry) for entry in ENTRIES_OF_5]
HASHES = TileHashes(lambda level, start, stop: LEAVES[start:stop] if level == 0 else [])
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "2a158d8afd48e3f88cb4195dfdb2a9e4817d95fa57fd34440d93f9aae5c4f82b",
    "983cb57c04cddd52634edab38a7bef85708a974f114bbd9aa9ec5d4ce6656b4b",
    "385da30f3917282c8939dff851957e519ab1846b1351a14c0adb3b11632742aa",
    "42fc54eeb6352f90cc81fdd5791292cca3974a168208b395b06a76240b24884d",
    "4fadaf65230be6227c00da655ea088f1038a3b3443350b3e6cf7062f2e03963a",
]
LOG_VKEY = "registry.example/log1+4517142d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
WITNESS_VKEY = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
CHECKPOINT = (
    "registry.example/log1\n5\nT62vZSML5iJ8ANplXqCI8QOKOzRDNQs+bPcGLy4Dljo=\n\n"
    "— registry.example/log1 "
    "RRcULVbnDPlSE4+r5JxZuHZvEf8CP2NOaZOXAh07r8CqsFDqV7zKIYul+v1KRnX2a5TnqZG/3W7QUOlF2WPiJQ+Fjwc=\n"
    "— witness.example/w1 "
    "IDJKvgAAAABpVbkAifN3RRau5q6ovmG+xyH4UbAhGj1RIKLg6uPdQBxFrGCHPbuvlZ4/Kvyub0BhKnWn3dnhSr/4FIAft1pKNFsQBg==\n"
).encode()
TIME = 1767225600


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_merkle_tree() -> None:
    assert EMPTY_ROOT.hex() == ROOTS[0]
    for size, root in enumerate(ROOTS):
        assert root_of(LEAVES[:size]).hex() == root
        assert root_from(size, HASHES).hex() == root
    assert LEAVES[2].hex() == "4c79d0d62f7cf5ca8874155f2d3b875f2625da2bb3abc86bbd6833f25ba90e51"
    assert LEAVES[4].hex() == "bf36e59f88d0623d36dd3860e24a44fcc6bcd2ad88fdf67249dc1953f3605b51"


def test_merkle_proofs() -> None:
    root2 = node_hash(LEAVES[0], LEAVES[1])
    assert inclusion_proof(2, 5, HASHES) == (LEAVES[3], root2, LEAVES[4])
    assert LEAVES[3].hex() == "5c7117fb9edb0cec387257891105da6a6616722af247083e2d6eda671529cdc5"
    assert consistency_proof(3, 5, HASHES) == (LEAVES[2], LEAVES[3], root2, LEAVES[4])
    assert consistency_proof(4, 5, HASHES) == (LEAVES[4],)
    roots = [bytes.fromhex(root) for root in ROOTS]
    verify_inclusion(2, 5, LEAVES[2], (LEAVES[3], root2, LEAVES[4]), roots[5])
    verify_consistency(3, 5, (LEAVES[2], LEAVES[3], root2, LEAVES[4]), roots[3], roots[5])
    verify_consistency(4, 5, (LEAVES[4],), roots[4], roots[5])


def test_verifier_keys() -> None:
    assert NoteSigner(ORIGIN, LOG_KEY).verifier.vkey == LOG_VKEY
    assert NoteVerifier("witness.example/w1", ED25519_COSIGNATURE, WITNESS_KEY.public.raw).vkey == WITNESS_VKEY
    assert read_vkey(LOG_VKEY).public.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert read_vkey(WITNESS_VKEY).vkey == WITNESS_VKEY


def test_checkpoint_and_cosignature() -> None:
    checkpoint = Checkpoint(ORIGIN, 5, root_of(LEAVES))
    assert sha256(checkpoint.text().encode()) == "f1872ecf02e931e734b8c8a4dce164c88116e5c01d5b38f301f79b077dfc25f7"
    message = cosignature_message(checkpoint.text(), TIME)
    assert sha256(message) == "54e5e9fc30e1a5609af40ea1523e36e8db9651fac6243944acd4265c2f5c49e8"
    note = parse_note(sign_checkpoint(checkpoint, NoteSigner(ORIGIN, LOG_KEY)))
    line = cosign(note.text, "witness.example/w1", WITNESS_KEY, TIME)
    whole = Note(note.text, (*note.signatures, line)).encode()
    assert whole == CHECKPOINT
    assert len(whole) == 317
    assert sha256(whole) == "81edb72431bf1e4673cb0bb92477670b5499fa8d401d1491d00e22fc7b4a2aca"
    assert read_checkpoint(CHECKPOINT, [LOG_VKEY]) == checkpoint
    (cosignature,) = verify_cosignatures(parse_note(CHECKPOINT), [read_vkey(WITNESS_VKEY)])
    assert cosignature.time == TIME


def test_tiles_of_five_entries() -> None:
    tiles = list(tiles_between(0, 5))
    assert [tile.path for tile in tiles] == ["tile/entries/000.p/5", "tile/0/000.p/5"]
    content = b"".join(LEAVES)
    assert len(content) == 160
    assert sha256(content) == "3ccb023e826c55b38cbebbb66e12df46ebbf15e45a91361fb57bff43841fa1b0"
    assert encode_bundle(ENTRIES_OF_5).hex() == (
        "0005616c706861000462657461000567616d6d61000564656c74610007657073696c6f6e"
    )


def test_tiles_of_70000_entries() -> None:
    leaves = [leaf_hash(str(number).encode()) for number in range(70000)]
    levels = [leaves]
    while len(levels[-1]) >= 256:
        row = levels[-1]
        levels.append([subtree_of(row[at : at + 256]) for at in range(0, len(row) - 255, 256)])
    hashes = TileHashes(lambda level, start, stop: levels[level][start:stop])
    root = "1a4cdfcb66374a0c0dcbef49acbd4976d13ee864fb3cb241fc943cad04f02f7e"
    assert root_of(leaves).hex() == root
    assert root_from(70000, hashes).hex() == root
    tiles = list(tiles_between(0, 70000))
    assert [tile.path for tile in tiles if tile.level == 0] == [
        *(Tile(0, number).path for number in range(273)),
        "tile/0/273.p/112",
    ]
    content = {tile.path: b"".join(levels[tile.level][tile.start : tile.stop]) for tile in tiles if tile.level >= 0}
    assert sha256(content["tile/0/273.p/112"]) == "4d21244557c976993a9a89bf928a46b5a876585228df279878239fd84489e5a5"
    assert sha256(content["tile/1/000"]) == "ea7b038bc73489c89c31a27ac355aaca65a4ed73f0dd7484e68deb29d30f10a2"
    assert sha256(content["tile/1/001.p/17"]) == "adfaca2731630fe7944a4b98a0f98ef3e98685eafda09e6f81070218fb759ce4"
    assert content["tile/2/000.p/1"].hex() == "f025d06ed804859fd274a1bdacadd6e48ea87634aa91e1edb20143f9498cd02b"
    assert "tile/1/002.p/17" not in content
    proof = inclusion_proof(12345, 70000, hashes)
    verify_inclusion(12345, 70000, leaves[12345], proof, bytes.fromhex(root))


@pytest.mark.parametrize(("index", "path"), [(5, "005"), (1234067, "x001/x234/067"), (999, "999"), (1000, "x001/000")])
def test_tile_numbers(index: int, path: str) -> None:
    assert Tile(0, index).path == f"tile/0/{path}"
    assert parse_path(f"tile/entries/{path}.p/7") == Tile(ENTRIES, index, 7)


def test_tlog_proof() -> None:
    proof = TlogProof(2, inclusion_proof(2, 5, HASHES), CHECKPOINT)
    data = write_proof(proof)
    assert len(data) == 484
    assert sha256(data) == "81222a4e4d6d14554f92388efb102fe642fc0388219eb25758ad58da16e53d06"
    assert data.startswith(
        b"c2sp.org/tlog-proof@v1\nindex 2\nXHEX+57bDOw4cleJEQXaamYWciryRwg+LW7aZxUpzcU=\n"
        b"mDy1fATN3VJjTtqzinvvhXCKl08RS72aqexdTOZla0s=\nvzbln4jQYj023Thg4kpE/Ma80q2I/fZySdwZU/NgW1E=\n\n"
    )
    assert read_proof(data) == proof
    verified = verify_proof(read_proof(data), b"gamma", [LOG_VKEY])
    assert (verified.index, verified.size, verified.root.hex(), verified.origin) == (2, 5, ROOTS[5], ORIGIN)


def test_extra_line_comes_before_the_index() -> None:
    data = write_proof(TlogProof(2, (), CHECKPOINT, b"gamma"))
    assert data.split(b"\n")[1] == b"extra " + base64.b64encode(b"gamma")
    assert read_proof(data).extra == b"gamma"


def test_policy_file() -> None:
    policy = parse_policy(
        f"# who we believe\nlog {LOG_VKEY} https://registry.example/log1\n"
        f"witness one {WITNESS_VKEY}\t# the only one\ngroup all-of-them all one\nquorum all-of-them\n"
    )
    checkpoint, cosignatures = policy.verify(CHECKPOINT)
    assert checkpoint.size == 5
    assert [cosignature.verifier.name for cosignature in cosignatures] == ["witness.example/w1"]


def test_witness_request() -> None:
    checkpoint = sign_checkpoint(Checkpoint(ORIGIN, 5, root_of(LEAVES)), NoteSigner(ORIGIN, LOG_KEY))
    request = AddCheckpoint(3, consistency_proof(3, 5, HASHES), checkpoint)
    assert len(request.encode()) == 376
    assert sha256(request.encode()) == "9059ca44540163b88f11f8b7df60eb82ad53ab85728aeece0c592d60352dd8bc"
    assert parse_add_checkpoint(request.encode()) == request
    assert witness_log_id(ORIGIN) == "f4ccb328ad48b63bc30cb7a2407081f6c7dc4b9818bbf746f9ab1c5654ea031b"
