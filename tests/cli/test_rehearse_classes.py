"""`rehearse` beyond lossy attacks: colluders are named, disguises seen through, the user trains on marked copies."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from cli.rehearse import RehearseRequest, rehearse
from cli.rehearse_coalition import require_colluders
from cli.rehearse_layout import layout_points
from cli.rehearse_sweep import chosen, sweep
from cli.rehearse_training import require_shares, training_points
from cli.report_rehearse import json_of_rehearsal, text_of_rehearsal, write_rehearsal_page
from tests.attacks.victims import HEADS, KEY_HEADS, module_of, output, state_of
from tests.watermark.marks.models import write_model
from watermark.attacks.recognise import recognise
from watermark.errors import InputError

CONFIGS = {
    "gpt": {"n_head": HEADS, "activation_function": "relu"},
    "llama": {"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS},
    "bert": {"num_attention_heads": HEADS},
}
LOOP = """
import torch
from pathlib import Path
from watermark.model.torch_state import load_state, save_state

def train(folder, share):
    assert (Path(folder) / "config.json").exists()
    draw = torch.Generator().manual_seed(int(100 * share))
    state = load_state(Path(folder))
    save_state(Path("trained"), {n: w + 0.1 * share * w.std() * torch.randn(w.shape, generator=draw)
                                 for n, w in state.items()})
    return "trained"

def nothing(folder, share):
    return None
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A model of three layers one after another, and the user's module beside it."""
    folder = tmp_path_factory.mktemp("chain")
    draw = np.random.default_rng(12)
    shapes = {"0": (400, 500), "2": (450, 400), "4": (300, 450)}
    weights = {f"{n}.weight": draw.normal(0, 0.05, shape).astype(np.float32) for n, shape in shapes.items()}
    model = write_model(folder / "model", weights)
    (model / "config.json").write_text("{}")
    (folder / "loops_of_tests.py").write_text(LOOP)
    return model


@pytest.fixture
def inside(chain, monkeypatch):
    monkeypatch.chdir(chain.parent)
    monkeypatch.syspath_prepend(str(chain.parent))
    return partial(RehearseRequest, chain, chain.parent / "work", train="python:loops_of_tests:train", colluders=4)


def test_every_class_is_tried_and_told_apart(inside, chain, tmp_path):
    families = ("disguise", "collusion, mean", "trained on")
    result = rehearse(inside(families=families, shares=(1.0,)))
    by_key = {point.key: point for point in result.points}
    untouched = by_key["untouched"]
    assert untouched.recipient
    assert untouched.copy_bits > 64
    for name in ("channels permuted", "transposed", "types mixed"):
        disguised = by_key[f"disguise {name}"]
        assert disguised.utility == 1.0
        assert disguised.bits > 0.9 * untouched.bits
    trained = by_key["trained on 1 x"]
    assert trained.verdict == "ours"
    assert trained.moved == pytest.approx(0.1, rel=0.1)
    pair, four = by_key["collusion, mean of 2"], by_key["collusion, mean of 4"]
    assert pair.recipient
    assert pair.copy_bits > four.copy_bits > 64
    # The copy of all other attacks is an innocent's here, and is never named.
    assert result.accused == []
    document = json_of_rehearsal(result)
    assert {point["class"] for point in document["points"]} == {None, "A", "D", "F"}
    assert document["unnamed_coalitions"] == [point.key for point in result.unnamed]
    assert "a colluder" in "\n".join(text_of_rehearsal(result))
    write_rehearsal_page(tmp_path / "page.html", result, chain)
    page = (tmp_path / "page.html").read_text()
    assert "F. Collusion" in page
    assert page.count("<svg") == 2  # disguises cost no quality: nothing to draw

    # Two processes go on in the same folder, and find what one would.
    both = rehearse(inside(families=("prune, 2 of 4", "shift"), jobs=2))
    alone = {point.key: point for point in rehearse(inside(families=("prune, 2 of 4",))).points}
    assert [point.key for point in both.points][:2] == ["untouched", "prune, 2 of 4 50 %"]
    assert len(both.points) == len({point.key for point in both.points}) == 4
    assert all(point.verdict == "ours" for point in both.points)
    assert alone["prune, 2 of 4 50 %"] in both.points


@pytest.mark.parametrize("kind", CONFIGS)
def test_disguises_keep_the_function_and_structure_fits_its_configuration(kind):
    state = state_of(kind)
    found = recognise(state, CONFIGS[kind])
    assert found is not None
    told = output(kind, state)
    tried = set()
    for point in layout_points(found):
        attacked = point.attack(state)
        tried.add(point.letter)
        assert point.is_whole or point.letter == "B"
        # BERT answers with its stream: reordered, so is the answer.
        if point.renames or (kind, point.letter) == ("bert", "A"):
            continue
        module = module_of(kind, **point.config)
        answer = output(kind, attacked, module)  # loads strictly: the configuration fits
        if point.is_whole:
            assert torch.allclose(answer, told, atol=1e-3), point.key
    assert tried == {"A", "B"}


def test_what_is_not_recognised_is_attacked_without_a_layout():
    state = state_of("gpt")
    assert recognise(state, {}) is None  # how many heads there are stands in no weight
    assert recognise({**state, "more.weight": torch.ones(4, 4)}, CONFIGS["gpt"]) is None
    assert {point.letter for point in layout_points(None)} == {"A"}


def test_an_output_matrix_that_is_tied_is_untied_by_disguises():
    state = {name: values for name, values in state_of("gpt").items() if name != "lm_head.weight"}
    found = recognise(state, CONFIGS["gpt"])
    turned = next(point for point in layout_points(found) if point.strength == "stream rotated")
    assert turned.config == {"tie_word_embeddings": False}
    whole = {**state, "lm_head.weight": state["transformer.wte.weight"]}
    assert torch.allclose(output("gpt", turned.attack(state)), output("gpt", whole), atol=1e-3)


def test_merges_with_siblings_need_siblings():
    base, sibling = state_of("mlp", 1), state_of("mlp", 2)
    merges = [point for point in sweep(base, {}, [sibling]) if point.letter == "E"]
    assert {point.family for point in merges} >= {"merge with the base", "soup", "TIES", "DARE", "task arithmetic"}
    assert all(point.attack(state_of("mlp")).keys() == base.keys() for point in merges)
    assert not [point for point in sweep(None, {}) if point.letter == "E"]


def test_what_cannot_be_tried_says_what_it_needs(inside):
    with pytest.raises(InputError, match="nothing of class 'D'") as refused:
        chosen(sweep(None, {}), letters=("D",))
    assert "--train" in refused.value.hint
    for count in (1, 65):
        with pytest.raises(InputError, match="colluders"):
            require_colluders(count)
    for share in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="is none"):
            require_shares((share,))
    with pytest.raises(InputError, match="gave NoneType"):
        rehearse(inside(families=("trained on",), train="python:loops_of_tests:nothing"))


def test_training_goes_on_from_the_damage():
    seen = []
    for point in training_points(lambda state, share: seen.append((state["w"].std(), share)) or state, (0.5,)):
        point.attack({"w": torch.ones(8, 8) + torch.eye(8)})
    assert [share for _, share in seen] == [0.5, 0.3, 0.3, 0.3, 0.3]
    assert len({float(spread) for spread, _ in seen}) > 3
