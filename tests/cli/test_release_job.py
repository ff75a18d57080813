"""`release`: complete or absent, the same bytes again, and conflicts named."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cli.audit import AuditRequest, audit
from cli.home import Home
from cli.release import ReleaseRequest, release
from cli.verify import VerifyRequest, verify
from registry.documents.write import DOCUMENTS
from tests.cli.owners import PASSPHRASE, make_home, make_release, phrase
from tests.watermark.marks.models import random_weights, read_weights, write_model
from watermark.errors import CapacityError, ConflictError, DigestError, InputError, UnavailableError, VerificationError
from watermark.marks.plan import plan_mark

pytestmark = pytest.mark.slow  # scrypt costs a second at each unlocking and each mark


@pytest.fixture
def home(tmp_path) -> Home:
    return make_home(tmp_path / "home")


@pytest.fixture
def model(tmp_path) -> Path:
    folder = write_model(tmp_path / "model", random_weights(seed=21))
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub").mkdir()
    (folder / "sub" / "vocab.txt").write_text("x\ny\n")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_release_verifies_carries_other_files_and_appears_in_the_log(home, model, tmp_path):
    result = make_release(home, model, tmp_path / "out", name="m", version="1", recipients=("Globex",))
    found = verify(VerifyRequest(tmp_path / "out", trust=home.trust_path))
    assert (found.owner, found.release, found.copy, found.index) == ("acme", result.release, result.copies[0].copy, 1)
    assert found.root == result.copies[0].root_digest
    shipped = files_of(tmp_path / "out")
    assert shipped["config.json"] == b'{"a": 1}'
    assert shipped["sub/vocab.txt"] == b"x\ny\n"
    assert {"model.sig", "claims.jsonl", "release.tlog-proof"} <= shipped.keys()
    assert audit(AuditRequest(home.path)).whole
    assert b"Globex" not in b"".join(shipped.values())


def test_the_same_release_twice_gives_the_same_bytes_and_one_entry(home, model, tmp_path):
    first = make_release(home, model, tmp_path / "one", name="m", recipients=("Globex", "Initech"))
    second = make_release(home, model, tmp_path / "two", name="m", recipients=("Globex", "Initech"))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert [copy.index for copy in first.copies] == [copy.index for copy in second.copies] == [1, 2]
    with home.registry() as registry:
        assert registry.size == 3


def test_a_release_from_before_the_root_named_its_owner_is_repeated_as_it_was(home, model, tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr("cli.release.plan_mark", lambda *args, owner, **kept: plan_mark(*args, **kept))
        make_release(home, model, tmp_path / "one", recipients=("Globex",))
    make_release(home, model, tmp_path / "two", recipients=("Globex",))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_later_recipient_gets_the_same_owner_mark(home, model, tmp_path):
    make_release(home, model, tmp_path / "one", recipients=("Globex",))
    result = make_release(home, model, tmp_path / "two", recipients=("Initech",))
    assert result.copies[0].index == 2
    reference = read_weights(model)["up"]
    a, b = (read_weights(tmp_path / copy)["up"] - reference for copy in ("one", "two"))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] == pytest.approx(2 / 3, abs=0.02)


def test_another_strength_no_mark_and_a_taken_label_are_conflicts(home, model, tmp_path):
    make_release(home, model, tmp_path / "one", name="m", version="1")
    with pytest.raises(ConflictError, match="another strength"):
        make_release(home, model, tmp_path / "two", strength=0.05)
    with pytest.raises(ConflictError, match="without a mark"):
        make_release(home, model, tmp_path / "two", mark=False)
    other = write_model(tmp_path / "other", random_weights(seed=22))
    with pytest.raises(ConflictError, match="another reference"):
        make_release(home, other, tmp_path / "two", name="m", version="1")
    assert not (tmp_path / "two").exists()
    make_release(home, other, tmp_path / "two", name="m", version="2")


def test_no_mark_ships_the_very_weights_and_is_still_registered(home, model, tmp_path):
    result = make_release(home, model, tmp_path / "out", mark=False)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert verify(VerifyRequest(tmp_path / "out", trust=home.trust_path)).release == result.release
    with pytest.raises(InputError, match="needs a mark"):
        make_release(home, model, tmp_path / "two", mark=False, recipients=("Globex",))
    with pytest.raises(ConflictError, match="without a mark"):
        make_release(home, model, tmp_path / "two")


def test_a_dry_run_says_what_would_be_and_writes_nothing(home, model, tmp_path):
    before = files_of(home.path)
    result = make_release(home, model, tmp_path / "out", dry_run=True, recipients=("Globex",))
    assert result.marked_tensors == 3
    assert result.expected_log2_p < -64
    assert result.disk_bytes > 1_000_000
    assert not (tmp_path / "out").exists()
    with home.registry() as registry:
        assert registry.size == 1
        assert registry.records.list_releases() == []
    assert files_of(home.path).keys() == before.keys()


def test_a_kept_reference_is_complete_and_remembered(home, model, tmp_path):
    make_release(home, model, tmp_path / "out", keep_reference=tmp_path / "kept")
    assert files_of(tmp_path / "kept") == files_of(model)
    with home.registry() as registry:
        assert registry.records.list_releases()[0].reference_place == str(tmp_path / "kept")


def test_targets_that_would_harm_are_refused(home, model, tmp_path):
    for out in (model, model / "inside", tmp_path):
        with pytest.raises(InputError, match="inside one another"):
            make_release(home, model, out)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(ConflictError, match="there already"):
        make_release(home, model, tmp_path / "taken")
    assert (tmp_path / "taken" / "file").read_text() == "mine"
    for recipients in (("Globex", "Globex"), ("",)):
        with pytest.raises(InputError, match="recipient"):
            make_release(home, model, tmp_path / "out", recipients=recipients)


def test_a_full_disk_is_seen_before_the_first_write(home, model, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10 << 20))
    with pytest.raises(UnavailableError, match="MiB free"):
        make_release(home, model, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "model"]


def test_a_model_that_cannot_carry_a_mark_says_so(home, tmp_path):
    tiny = write_model(tmp_path / "tiny", {"w": np.ones((4, 4), np.float32)})
    with pytest.raises(CapacityError, match="no tensor"):
        make_release(home, tiny, tmp_path / "out")


def test_files_changed_since_the_first_release_are_named(home, model, tmp_path):
    make_release(home, model, tmp_path / "one")
    (model / "config.json").write_text('{"a": 2}')
    with pytest.raises(DigestError, match=r"config\.json"):
        make_release(home, model, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_fine_tune_is_marked_only_where_it_differs_from_its_base(home, tmp_path):
    base = random_weights(seed=31)
    tuned = {name: values.copy() for name, values in base.items()}
    draw = np.random.default_rng(32)
    for name in ("up", "down"):
        change = draw.normal(0, 0.002, base[name].shape).astype(np.float32)
        change[: len(change) // 2] = 0
        tuned[name] += change
    base_folder = write_model(tmp_path / "base", base)
    tuned_folder = write_model(tmp_path / "tuned", tuned)
    make_release(home, tuned_folder, tmp_path / "out", base=str(base_folder))
    after = read_weights(tmp_path / "out")
    assert np.array_equal(after["mix"], tuned["mix"])
    for name in ("up", "down"):
        same = tuned[name] == base[name]
        assert np.array_equal(after[name][same], tuned[name][same])
        moved = (after[name] - tuned[name])[~same]
        assert 0 < moved.std() < 0.15 * 0.002


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_every_tampering_with_a_release_is_found(home, model, tmp_path):
    make_release(home, model, tmp_path / "out", recipients=("Globex",))
    clean = files_of(tmp_path / "out")
    draw = random.Random(1)

    def refused() -> bool:
        try:
            verify(VerifyRequest(tmp_path / "out", trust=home.trust_path))
        except (VerificationError, InputError):
            return True
        return False

    assert not refused()
    for name, data in clean.items():
        path = tmp_path / "out" / name
        for place in {0, len(data) - 1, *(draw.randrange(len(data)) for _ in range(3))}:
            path.write_bytes(flipped(data, place))
            assert refused(), (name, place)
        path.unlink()
        assert refused(), f"{name} removed"
        (tmp_path / "out" / f"{name}.moved").write_bytes(data)
        assert refused(), f"{name} renamed"
        (tmp_path / "out" / f"{name}.moved").unlink()
        path.write_bytes(data)
        assert not refused()
    (tmp_path / "out" / "extra").write_bytes(b"")
    assert refused()


RELEASE_ONCE = """
import sys
from pathlib import Path
from cli.release import ReleaseRequest, release
home, model, out = map(Path, sys.argv[1:4])
release(ReleaseRequest(home, model, out, name="m", recipients=("Globex",)), lambda: sys.argv[4].encode())
"""


def test_killed_at_random_moments_a_release_is_absent_or_complete(home, model, tmp_path):
    command = [
        sys.executable,
        "-c",
        RELEASE_ONCE,
        str(home.path),
        str(model),
        str(tmp_path / "out"),
        PASSPHRASE.decode(),
    ]
    started = time.monotonic()
    subprocess.run(command, check=True)
    whole = time.monotonic() - started
    expected = files_of(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    draw = random.Random(7)
    killed = 0
    for _ in range(8):
        process = subprocess.Popen(command)
        time.sleep(draw.uniform(0.3, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if (tmp_path / "out").exists():
            assert files_of(tmp_path / "out") == expected
            shutil.rmtree(tmp_path / "out")
        assert audit(AuditRequest(home.path)).whole
    release(ReleaseRequest(home.path, model, tmp_path / "out", name="m", recipients=("Globex",)), phrase)
    assert files_of(tmp_path / "out") == expected
    assert not [name for name in os.listdir(tmp_path) if "draft" in name]
    assert killed > 0
    with home.registry() as registry:
        assert registry.size == 2


def test_killed_before_its_first_receipt_a_release_logs_one_entry(home, model, tmp_path):
    """Whatever moment the first attempt dies at, the copy has one entry in the end."""
    command = [
        sys.executable,
        "-c",
        RELEASE_ONCE,
        str(home.path),
        str(model),
        str(tmp_path / "out"),
        PASSPHRASE.decode(),
    ]
    draw = random.Random(9)
    for _ in range(4):
        process = subprocess.Popen(command)
        time.sleep(draw.uniform(2.0, 5.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")
    release(ReleaseRequest(home.path, model, tmp_path / "out", name="m", recipients=("Globex",)), phrase)
    with home.registry() as registry:
        kinds = [json.loads(data)["payloadType"] for data in registry.entries(0, registry.size)]
    assert len(kinds) == 2
    assert audit(AuditRequest(home.path)).whole


def test_a_model_of_torch_shards_ships_as_safetensors_that_load(home, tmp_path):
    """PyTorch shards with an index become safetensors shards with theirs, under the names that loaders look for."""
    import torch

    from watermark.model.torch_state import load_state

    source = tmp_path / "torch"
    source.mkdir()
    weights = {name: torch.from_numpy(values) for name, values in random_weights(seed=51).items()}
    shards = {"pytorch_model-00001-of-00002.bin": ["up", "bias"], "pytorch_model-00002-of-00002.bin": ["down", "mix"]}
    for shard, names in shards.items():
        torch.save({name: weights[name] for name in names}, source / shard)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    make_release(home, source, tmp_path / "out")
    shipped = files_of(tmp_path / "out")
    assert {name for name in shipped if name.endswith((".safetensors", ".json"))} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        *DOCUMENTS,
    }
    assert verify(VerifyRequest(tmp_path / "out", trust=home.trust_path)).verified
    assert load_state(tmp_path / "out").keys() == weights.keys()
