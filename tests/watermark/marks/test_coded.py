"""Codes of packed weights move by one step at most, on their own grid, and say nothing of the chips by themselves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import packed_files
from tests.watermark.marks.models import SECRET
from watermark.errors import DocumentError
from watermark.evidence import predicted_bits_with_reference
from watermark.marks.coded import (
    can_move,
    code_steps,
    coded_tensors,
    moved_weights,
    survey_coded,
    survey_with_codes,
)
from watermark.marks.detect import BLIND, DIFFERENCE, detect
from watermark.marks.geometry import CODES, OWNER_ENERGY, Geometry
from watermark.marks.plan import MarkPlan, plan_mark
from watermark.marks.secret import ReleaseKey
from watermark.marks.spans import Carrier, ChipSource, Sources
from watermark.marks.weights import Embedder
from watermark.model.directory import Model, open_model
from watermark.model.packed.bits import pack_words, unpack_words
from watermark.model.packed.moves import Moves
from watermark.model.rewrite import NewBytes, rewrite_shard
from watermark.model.suspect import find_packed, open_suspect
from watermark.model.torch_state import load_state, save_state

LAYOUTS = {
    "gptq": packed_files.gptq(),
    "gptq3": packed_files.gptq(3, act_order=True),
    "gptq8": packed_files.gptq(8, version=2, group=128),
    "awq": packed_files.awq(group=128),
    "compressed": packed_files.compressed(4, group=128),
    "compressed3": packed_files.compressed(3),
    "int8": packed_files.int8,
}
UNEVEN = {"nf4": packed_files.nf4(), "mxfp4": packed_files.mxfp4, "fp8": packed_files.fp8_squares}


def weight(seed: int) -> np.ndarray:
    """(outputs, inputs); a tenth of it pruned, and the last row a copy of the first."""
    draw = np.random.default_rng(seed)
    values = 0.02 * draw.standard_normal((192, 256))
    values[draw.random(values.shape) < 0.1] = 0
    values[-1] = values[0]
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> tuple[Path, Path, MarkPlan, Embedder]:
    """A weight in every layout, marked; one scrypt for all."""
    folder = tmp_path_factory.mktemp("coded")
    parts = {
        f"{name}{suffix}": part
        for seed, (name, pack) in enumerate({**LAYOUTS, **UNEVEN}.items())
        for suffix, part in pack(weight(seed))[0].items()
    }
    save_state(folder / "reference", parts)
    with open_model(folder / "reference") as model:
        found = survey_with_codes(model)
        key = ReleaseKey.of(SECRET, found.reference_digest)
        plan = plan_mark(key, found, strength=0.05, owner="acme")
        embedder = Embedder(plan, [key.copy_key("Globex")])
        (folder / "copy").mkdir()
        shard = model.shards[0]
        with moved_weights(embedder, shard) as (moved, largest):
            assert 0 < largest < 0.1

            def change(span, raw):
                weight = moved.get(span.tensor.name)
                return NewBytes(weight.stored_bytes(span)) if weight else embedder.mark(span, raw, None)

            rewrite_shard(model, shard, [folder / "copy" / shard], change)
    return folder / "reference", folder / "copy", plan, embedder


def codes_of(model: Model, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values of a packed weight."""
    found = next(one for one in find_packed(model) if one.name == f"{name}.weight")
    assert found.grid is not None
    codes = found.grid.read(0, found.shape[0])
    return codes, found.grid.values(codes, 0, found.shape[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_move_by_one_step_and_nothing_else_changes(marked, layout):
    reference, copy, plan, _ = marked
    before, after = load_state(reference), load_state(copy)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    tensor = next(t for t in plan.geometry.marked if f"{layout}.weight" in plan.surveys[t.digest].names)
    stored = plan.surveys[tensor.digest].coded[0].grid.stored.name
    assert [name for name in changed if name.startswith(f"{layout}.")] == [stored]
    with open_model(reference) as ours, open_model(copy) as theirs:
        (codes, values), (moved, _) = codes_of(ours, layout), codes_of(theirs, layout)
    steps = moved - codes
    assert set(np.unique(steps)) == {-1, 0, 1}
    stays = (values == 0) | (codes == codes.min()) | (codes == codes.max())
    stays[[0, -1]] = True  # the two rows that are one
    assert not steps[stays].any()
    assert tensor.carriers == pytest.approx((~stays).sum(), rel=0.01)  # whole rows are taken off for the two
    # As often as the mean move asks for: strength over step, times the mean size of a chip.
    wanted = tensor.alpha / (tensor.step_ppm / 1e6) * 0.857
    assert np.mean(steps[~stays] != 0) == pytest.approx(wanted, rel=0.08)
    assert tensor.alpha <= tensor.step_ppm / 2e6 + 1e-6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_moves_follow_the_chips_and_the_marked_codes_do_not_show_them(marked, layout):
    reference, copy, plan, embedder = marked
    tensor = next(t for t in plan.geometry.marked if f"{layout}.weight" in plan.surveys[t.digest].names)
    chips = ChipSource.of(plan.key.block_secrets(), embedder.stretched)
    signs = np.concatenate(
        [
            np.unpackbits(np.frombuffer(chips.keys(tensor.first_block + block).owner_bits(stop - start), np.uint8))
            for block, (start, stop) in enumerate(map(tensor.layout.bounds, range(tensor.layout.blocks)))
        ]
    ).astype(np.float64) * 2 - 1  # fmt: skip
    with open_model(reference) as ours, open_model(copy) as theirs:
        (codes, _), (moved, values) = codes_of(ours, layout), codes_of(theirs, layout)
    steps = (moved - codes).ravel()
    assert (signs * steps)[steps != 0].mean() > 0.9
    # A thief has the codes alone: their low bits, each by itself, in pairs, and where neighbours are near the end.
    # Large weights lean to their chips, which the blind test lives on; beyond that nothing may show.
    leaning = tensor.alpha * np.sqrt(OWNER_ENERGY) * (values / values.std(axis=1, keepdims=True)).ravel()
    flat = moved.ravel()
    for look in (
        flat & 1,
        flat >> 1 & 1,
        (flat ^ np.roll(flat, 1)) & 1,
        flat == flat.max() - 1,
        flat == flat.min() + 1,
    ):
        shown = look - look.mean()
        assert abs(float((signs - leaning) @ shown)) < 4.5 * np.linalg.norm(shown)


def test_the_mark_shows_as_predicted_and_a_wrong_key_shows_nothing(marked):
    reference, copy, plan, embedder = marked
    with open_suspect(reference) as ours, open_suspect(copy) as theirs:
        known = coded_tensors(ours)
        carriers = [
            Carrier(tensor, theirs.weights[known[tensor.digest].name], known[tensor.digest])
            for tensor in plan.geometry.marked
            if tensor.grid == CODES
        ]
        assert len(carriers) == len(LAYOUTS)
        sources = Sources(theirs, ours)
        right = ChipSource.of(plan.key.block_secrets(), embedder.stretched)
        blind, shown = detect(sources, carriers, right, [BLIND, DIFFERENCE])
        wrong = [
            test
            for number in range(20)
            for test in detect(
                sources,
                carriers,
                ChipSource.of(ReleaseKey(bytes([number]) * 32).block_secrets(), embedder.stretched),
                [BLIND, DIFFERENCE],
            )
        ]
    # Blind, the mark is drowned in the weights themselves: a dozen bits are known to within a few.
    assert abs(blind.z - (-2 * math.log(2) * plan.expected_log2_p) ** 0.5) < 4
    predicted = sum(
        predicted_bits_with_reference(
            carrier.marked.carriers,
            carrier.marked.alpha * OWNER_ENERGY**0.5,
            (carrier.marked.alpha**2 * (1 - OWNER_ENERGY) + carrier.marked.rounding_variance) ** 0.5,
        )
        for carrier in carriers
    )
    assert -shown.log2_p == pytest.approx(predicted, rel=0.35)
    assert max(-test.log2_p for test in wrong) < 16
    assert max(abs(test.z) for test in wrong) < 5


def test_codes_of_uneven_steps_are_carried_unchanged(marked):
    reference, copy, plan, _ = marked
    before, after = load_state(reference), load_state(copy)
    codes = [name for name in before if name.startswith(tuple(UNEVEN)) and "scale" not in name]
    assert len(codes) >= len(UNEVEN)
    for name in codes:
        assert torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)), name
    names = [name for t in plan.geometry.marked for name in plan.surveys[t.digest].names]
    assert {f"{layout}.weight" for layout in LAYOUTS} <= set(names)
    assert not any(name.startswith(tuple(LAYOUTS)) and "weight" not in name for name in names)  # no scales


def test_a_geometry_with_codes_is_read_as_it_was_written_and_no_other(marked):
    plan = marked[2]
    document = plan.geometry.document()
    assert Geometry.from_document(document) == plan.geometry
    for before, after in ((b'"step_ppm":', b'"step_pp":'), (b'"grid":"codes"', b'"grid":"F32"')):
        with pytest.raises(DocumentError):
            Geometry.from_document(document.replace(before, after, 1))


def test_a_weight_like_the_values_of_another_has_a_digest_of_its_own(tmp_path):
    """Codes and the float weight that they stand for would else be one carrier under two grids."""
    parts, values = packed_files.int8(weight(1))
    state = {f"a{name}": part for name, part in parts.items()} | {"b.weight": torch.from_numpy(values)}
    state["c.weight"] = torch.randn(192, 256)
    save_state(tmp_path / "m", state)
    with open_model(tmp_path / "m") as model:
        plan = plan_mark(ReleaseKey(b"k" * 32), survey_with_codes(model), strength=0.05)
        earlier = plan_mark(ReleaseKey(b"k" * 32), survey_with_codes(model), strength=0.05, codes=False)
    assert {t.grid for t in plan.geometry.marked} == {CODES, "F32"}
    assert len({t.digest for t in plan.geometry.marked}) == 2
    assert [t.grid for t in earlier.geometry.marked] == ["F32"]  # as it was before codes were marked


def test_two_weights_from_the_same_codes_are_left_alone(tmp_path):
    parts, _ = packed_files.int8(weight(1))
    state = {f"a{name}": part for name, part in parts.items()}
    state |= {"a.weight_scale": torch.rand(192), "c.weight": torch.randn(192, 256)}
    save_state(tmp_path / "m", state)
    with open_model(tmp_path / "m") as model:
        packed = list(find_packed(model))
        twice = [one for one in packed if can_move(one)] * 2
        assert packed
        assert survey_coded(twice) == ()


def test_scales_that_are_no_numbers_carry_nothing(tmp_path):
    parts, _ = packed_files.int8(weight(1))
    parts[".SCB"][3] = torch.inf
    save_state(tmp_path / "m", {f"a{name}": part for name, part in parts.items()} | {"c.weight": torch.randn(192, 256)})
    with open_model(tmp_path / "m") as model:
        assert [found.reason for found in survey_with_codes(model).coded] == ["scales that are no numbers"]


@pytest.mark.parametrize("bits", range(2, 9))
def test_words_are_packed_as_they_are_unpacked(bits):
    draw = np.random.default_rng(bits)
    codes = draw.integers(0, 1 << bits, (5, 37), np.int32)
    words = -(-37 * bits // 32)
    np.testing.assert_array_equal(unpack_words(pack_words(codes, bits, words), bits)[:, :37], codes)


def test_rounding_is_right_in_the_mean():
    draw = np.random.default_rng(1)
    count = 1 << 18
    random = draw.integers(0, 1 << 16, count, np.uint16)
    steps = np.full(count, -0.5, np.float32)  # scales may be negative
    for wanted in (0.002, -0.03, 0.4):
        found = code_steps(np.full(count, wanted, np.float32), steps, np.zeros(count, bool), random)
        assert float((found * steps).mean()) == pytest.approx(wanted, rel=0.1)


def test_moves_are_read_in_both_orders():
    steps = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
    moves = Moves((4, 6))
    moves.put(0, steps[:2].reshape(-1))
    moves.put(12, steps[2:].reshape(-1))
    np.testing.assert_array_equal(moves.rows(1, 3), steps[1:3])
    np.testing.assert_array_equal(moves.columns(2, 5), steps[:, 2:5])
    moves.close()
