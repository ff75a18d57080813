"""Sketches: what leaves them alone, what they survive, and who is told from whom."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.watermark.lineage.chains import KINDS, answers, folded, reordered, sibling_chain, trained_chain
from tests.watermark.lineage.decoys import decoys
from tests.watermark.lineage.sketching import sketch_of
from tests.watermark.lineage.small_models import TRANSFORMERS, sibling, trained
from tests.watermark.lineage.thefts import chain_thefts, free_of_charge, lossy, on_top_of_each_other
from watermark.attacks import disguise, merging
from watermark.errors import DocumentError
from watermark.lineage.fingerprint import MAX_SKETCH_BYTES, WHOLE, Form, Sketch, sketch_model
from watermark.lineage.search import NAMED, POSSIBLE, SketchIndex, cosine, distance, margin
from watermark.model import parallel
from watermark.model.directory import open_model
from watermark.model.torch_state import save_state

#: Decoys of the quick tests and of the slow one; scripts/bench_fingerprint.py takes a million.
FEW, MANY = 20_000, 100_000


def an_index(kinds: tuple[str, ...], extra: list[Sketch], count: int) -> SketchIndex:
    """`extra` first, then decoys fitted to twins of all kinds: a part of them to the very layout that is looked for."""
    make = trained_chain if kinds[0] in KINDS else trained
    groups = [[sketch_of(make(kind, seed)) for seed in (3, 4)] for kind in kinds]
    forms = np.full(len(extra) + count, extra[0].form, np.uint8)
    return SketchIndex(np.concatenate([np.stack([one.whole for one in extra]), decoys(groups, count)]), forms)


@pytest.mark.parametrize("kind", ["llama", *(pytest.param(k, marks=pytest.mark.slow) for k in ("gpt", "bert", "moe"))])
def test_what_costs_a_thief_nothing_does_not_hide_a_transformer(kind: str) -> None:
    state = trained(kind, 1)
    known = sketch_of(state)
    assert known.form == Form.STREAM
    found = {name: cosine(sketch_of(attack(state)), known) for name, attack in free_of_charge(kind).items()}
    assert {name: value for name, value in found.items() if value < 0.94} == {}


@pytest.mark.parametrize("kind", ["llama", *(pytest.param(k, marks=pytest.mark.slow) for k in ("gpt", "bert", "moe"))])
def test_the_right_release_is_first_after_every_theft(kind: str) -> None:
    """Beside its own twins and decoys of its own layout; cosines stay above what is reported as possible."""
    state = trained(kind, 1)
    index = an_index((kind,), [sketch_of(state), *(sketch_of(trained(kind, seed)) for seed in (2, 3))], FEW)
    thefts = {**lossy(), **on_top_of_each_other(kind)}
    found = {name: index.search(sketch_of(attack(state)), 2) for name, attack in thefts.items()}
    assert {name: matches for name, matches in found.items() if matches[0].number != 0} == {}
    weak = {name for name, matches in found.items() if matches[0].cosine < POSSIBLE}
    assert weak <= {"svd-25", "noise-40", "noise-40, all symmetries, int4, a block dropped"}


@pytest.mark.slow
def test_among_a_hundred_thousand_the_right_one_is_first() -> None:
    """Every layout at once: transformers and mixtures in one index, whatever was done to them."""
    known = {kind: sketch_of(trained(kind, 1)) for kind in TRANSFORMERS}
    index = an_index(TRANSFORMERS, list(known.values()), MANY)
    wrong = {}
    for place, kind in enumerate(TRANSFORMERS):
        for name, attack in {**free_of_charge(kind), **lossy(), **on_top_of_each_other(kind)}.items():
            first = index.search(sketch_of(attack(trained(kind, 1))), 1)[0]
            if first.number != place:
                wrong[kind, name] = first
    assert wrong == {}


@pytest.mark.parametrize("kind", KINDS)
def test_plain_networks_are_found_too(kind: str) -> None:
    """Units reordered and scaled, damage, and both; twins of the same layout in the index."""
    state = trained_chain(kind, 1)
    hidden = reordered(kind, state, 5)
    assert torch.allclose(answers(kind, hidden), answers(kind, state), atol=1e-4)
    index = an_index((kind,), [sketch_of(state), *(sketch_of(trained_chain(kind, seed)) for seed in (2, 3))], FEW)
    assert sketch_of(state).form == Form.CHAIN
    for name, attack in chain_thefts(kind).items():
        first = index.search(sketch_of(attack(state)), 1)[0]
        assert first.number == 0, name
    assert cosine(sketch_of(hidden), sketch_of(state)) > 0.99


def test_a_folded_batch_norm_does_not_show() -> None:
    state = trained_chain("cnn", 1)
    assert torch.allclose(answers("cnn", folded(state)), answers("cnn", state), atol=1e-4)
    assert cosine(sketch_of(folded(state)), sketch_of(state)) > 0.98


@pytest.mark.parametrize("kind", ["llama", *(pytest.param(k, marks=pytest.mark.slow) for k in ("gpt", "bert", "moe"))])
def test_twins_are_not_named(kind: str) -> None:
    """Same data, recipe and layout, another seed: alike to some degree, which is why a cosine is no evidence."""
    assert -0.2 < cosine(sketch_of(trained(kind, 1)), sketch_of(trained(kind, 2))) < NAMED


@pytest.mark.parametrize("kind", ["llama", *(pytest.param(k, marks=pytest.mark.slow) for k in ("gpt", "bert", "moe"))])
def test_the_right_sibling_is_nearest(kind: str) -> None:
    """Fine-tunes of one base: alike in the whole, told apart by their parts where the damage is not too great."""
    family = [sketch_of(sibling(kind, 1, number)) for number in (1, 2)] + [sketch_of(trained(kind, 1))]
    assert cosine(family[0], family[1]) > 0.8
    thefts = {**free_of_charge(kind), **{name: lossy()[name] for name in ("int8", "int4-g128", "noise-10")}}
    for name, attack in thefts.items():
        suspect = sketch_of(attack(sibling(kind, 1, 1)))
        assert min(range(3), key=lambda one: distance(suspect, family[one])) == 0, name
        assert margin(suspect, family[0], family[1]) > 0.2, name


def test_margins_say_where_a_suspect_lies() -> None:
    first, second = (sketch_of(sibling("llama", 1, number)) for number in (1, 2))
    assert margin(first, first, second) == pytest.approx(1, abs=1e-4)
    assert margin(second, first, second) == pytest.approx(-1, abs=1e-4)
    assert margin(first, first, first) == 0
    assert margin(first, first, sketch_of(trained_chain("mlp", 1))) == 0


@pytest.mark.parametrize("kind", ["llama", pytest.param("moe", marks=pytest.mark.slow)])
def test_a_merge_leads_to_both_its_parents(kind: str) -> None:
    parents = [trained(kind, 1), trained(kind, 2)]
    index = an_index((kind,), [sketch_of(parent) for parent in parents], FEW)
    found = index.search(sketch_of(merging.linear(*parents, 0.5)), 10)
    assert {0, 1} & {match.number for match in found}


def test_names_and_order_do_not_count() -> None:
    state = trained("llama", 1)
    assert cosine(sketch_of(disguise.renamed(state, 3)), sketch_of(state)) > 0.999
    assert sketch_of(state).to_bytes() == sketch_of(state).to_bytes()


def test_bytes_and_back() -> None:
    sketch = sketch_of(trained("llama", 1))
    data = sketch.to_bytes()
    assert len(data) <= MAX_SKETCH_BYTES
    again = Sketch.from_bytes(data)
    assert (again.form, again.to_bytes()) == (sketch.form, data)
    for damaged in (data[:-1], data + b"\0", b"wms2" + data[4:], data[:4] + b"\x09" + data[5:], b"", bytes(5_000)):
        with pytest.raises(DocumentError):
            Sketch.from_bytes(damaged)


ODD = {
    "one number": {"a": torch.ones(1, 1)},
    "no matrix": {"a": torch.arange(5.0)},
    "zeros": {"a": torch.zeros(64, 48), "b": torch.zeros(300, 48), "c": torch.zeros(48, 64)},
    "not a number": {"a": torch.full((64, 48), torch.nan), "b": torch.full((300, 48), torch.inf)},
    "huge numbers": {
        name: torch.randn(shape) * 1e37 for name, shape in (("a", (300, 48)), ("b", (96, 48)), ("c", (48, 96)))
    },
    "huge numbers in a chain": {"a": torch.randn(30, 48) * 1e38, "b": torch.randn(7, 30) * 1e38},
    "integers": {"a": torch.arange(3_000, dtype=torch.int32).reshape(60, 50)},
    "empty": {"a": torch.zeros(0, 48), "b": torch.randn(40, 48, generator=torch.Generator().manual_seed(1))},
    "booleans": {"a": torch.ones(40, 48, dtype=torch.bool)},
    "side paths": {"a": torch.randn(32, 32, 3, 3), "b": torch.randn(32, 16, 3, 3), "c": torch.randn(7, 33)},
    "many axes": {"a": torch.randn(4, 3, 2, 5, 6)},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_models_have_a_sketch_too(name: str) -> None:
    sketch = sketch_of(ODD[name])
    assert Sketch.from_bytes(sketch.to_bytes()).to_bytes() == sketch.to_bytes()
    assert len(sketch.whole) == WHOLE


def test_an_unknown_layout_says_so_and_survives_damage() -> None:
    state = dict(ODD["side paths"])
    sketch = sketch_of(state)
    assert sketch.form.word == "plain"
    other = sketch_of({name: torch.randn_like(tensor) for name, tensor in state.items()})
    assert cosine(sketch_of(lossy()["int4-g128"](state)), sketch) > 0.9 > 0.45 > cosine(other, sketch)


def test_memory_does_not_grow_with_a_table(tmp_path: Path) -> None:
    width, rows = 64, 200_000
    stream = torch.Generator().manual_seed(2)
    state = {"table": torch.randn(rows, width, generator=stream)}
    state |= {f"l{number}": torch.randn(160, width, generator=stream) for number in range(6)}
    save_state(tmp_path / "model", state)
    size = rows * width * 4
    with open_model(tmp_path / "model") as model:
        del state
        tracemalloc.start()
        sketch = sketch_model(model)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sketch.form == Form.STREAM
    assert peak < size / 2


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_many_cores_give_the_bytes_of_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Square matrices both ways round, stacks of experts, a table of words: stored sketches stay what they are."""
    with monkeypatch.context() as one:
        one.setattr(parallel, "workers", lambda: 1)
        alone = sketch_of(trained(kind, 1)).to_bytes()
    monkeypatch.setattr(parallel, "workers", lambda: 3)
    monkeypatch.setattr(parallel, "_FORK_BYTES", 0)
    assert sketch_of(trained(kind, 1)).to_bytes() == alone


def test_searching_nothing_finds_nothing() -> None:
    sketch = sketch_of(trained_chain("mlp", 1))
    assert SketchIndex.of([]).search(sketch) == []
    empty = sketch_of(ODD["no matrix"])
    assert SketchIndex.of([sketch]).search(empty) == []
    assert cosine(empty, empty) == 0
    other_form = SketchIndex.of([sketch_of(trained("llama", 1)), sketch]).search(sketch)
    assert [match.number for match in other_form] == [1, 0]
    assert other_form[1].cosine == 0
    assert other_form[1].level == "unlike"


def test_the_right_sibling_of_plain_networks() -> None:
    family = [sketch_of(sibling_chain("cnn", 1, number)) for number in (1, 2)]
    suspect = sketch_of(reordered("cnn", sibling_chain("cnn", 1, 1), 9))
    assert margin(suspect, family[0], family[1]) > 0.9
