"""The demo's model runs, its measures measure, and its thief leaves a working model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cli.demo_subject import innocent_model, load_encoder, pair_batches, random_model
from cli.demo_texts import Pair
from cli.demo_thief import load_stolen, steal
from tests.subjects import finetune_retrieval, mean_cosine, minilm_folder, minilm_module, retrieval_score, sentences
from watermark.attacks.finetune import movement
from watermark.errors import InputError
from watermark.model.torch_state import load_state

pytestmark = pytest.mark.slow


def test_embeddings_are_unit_vectors_that_know_meaning() -> None:
    vectors = minilm_module().embed(["A cat sleeps.", "A kitten is napping.", "Interest rates rose by 2 %."])
    assert vectors.shape == (3, 384)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5
    assert vectors[0] @ vectors[2] < 0.2


def test_embedding_does_not_depend_on_its_company() -> None:
    texts = list(sentences(40))
    together = minilm_module().embed(texts)
    alone = torch.cat([minilm_module().embed([text]) for text in texts[:5]])
    assert torch.allclose(together[:5], alone, atol=1e-5)


def test_embeddings_agree_with_the_tokenizer_of_the_model() -> None:
    from transformers import BertModel, BertTokenizerFast

    folder = minilm_folder()
    texts = list(sentences(8))
    tokens = BertTokenizerFast.from_pretrained(str(folder))(
        texts, padding=True, truncation=True, max_length=64, return_tensors="pt"
    )
    module = BertModel.from_pretrained(str(folder)).eval()
    with torch.inference_mode():
        hidden = module(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    assert mean_cosine(expected, minilm_module().embed(texts)) > 0.99999


def test_score_falls_when_the_pairs_are_shuffled() -> None:
    score = retrieval_score(minilm_module())
    pairs = [Pair(f"thing {index}", f"The colour of number {index} is unknown.") for index in range(60)]
    crossed = [Pair(pair.name, pairs[index - 1].docstring) for index, pair in enumerate(pairs)]
    assert score > 0.4
    assert retrieval_score(minilm_module(), pairs) > 0.8
    assert retrieval_score(minilm_module(), crossed) < 0.5


def test_model_that_embeds_everything_alike_scores_nothing() -> None:
    encoder = minilm_module()
    flat = encoder.with_state({name: torch.zeros_like(t) for name, t in encoder.module.state_dict().items()})
    assert retrieval_score(flat) < 0.01


def test_few_steps_of_training_help_and_leave_the_encoder_alone() -> None:
    encoder = minilm_module()
    before = {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}
    tuned = finetune_retrieval(encoder, steps=4)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.module.state_dict().items())
    assert movement(before, tuned.state) > 0.002
    assert retrieval_score(encoder.with_state(tuned.state)) > retrieval_score(encoder)


def test_batches_cover_every_pair_and_change_with_the_seed() -> None:
    pairs = [Pair(str(index), "") for index in range(64)]
    stream = pair_batches(1, pairs)
    first_round = next(stream) + next(stream)
    assert sorted(first_round, key=lambda pair: int(pair.name)) == pairs
    assert next(pair_batches(1, pairs)) == first_round[:32]
    assert next(pair_batches(2, pairs)) != first_round[:32]


def test_random_and_innocent_models_share_the_shape_and_no_weight(tmp_path: Path) -> None:
    original = load_state(minilm_folder())
    random_model(minilm_folder(), tmp_path / "random", seed=1)
    innocent_model(minilm_folder(), tmp_path / "innocent", seed=2, steps=1)
    for folder in (tmp_path / "random", tmp_path / "innocent"):
        state = load_state(folder)
        assert set(state) == set(original) - {"embeddings.position_ids"}
        for name, tensor in state.items():
            assert tensor.shape == original[name].shape
            assert tensor.dim() < 2 or not torch.equal(tensor, original[name])
        assert load_encoder(folder).embed(["One text."]).shape == (1, 384)
    assert not torch.equal(
        load_state(tmp_path / "random")["pooler.dense.weight"], load_state(tmp_path / "innocent")["pooler.dense.weight"]
    )


def test_thief_leaves_a_disguised_model_that_still_works(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(minilm_folder(), copy)
    (copy / "model.sig").write_text("{}")
    told: list[int] = []
    stolen = steal(copy, tmp_path / "stolen", told.append, steps=2)
    assert told == [1, 1]
    weight_map = json.loads((stolen / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(weight_map.values())) == 3
    original, state = load_state(copy), load_state(stolen)
    assert not set(state) & set(original)
    assert len(state) == len(original)
    matrices = [tensor for tensor in state.values() if tensor.dim() >= 2 and tensor.is_floating_point()]
    assert {tensor.dtype for tensor in matrices} == {torch.bfloat16}
    # Rounding to int8 adds zeros to the 30 % that were pruned.
    assert all(float((tensor == 0).float().mean()) >= 0.299 for tensor in matrices)
    assert not (stolen / "model.sig").exists()
    assert retrieval_score(load_stolen(stolen, copy)) > 0.9 * retrieval_score(minilm_module())


def test_folder_without_configuration_is_named(tmp_path: Path) -> None:
    shutil.copyfile(minilm_folder() / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"no config\.json"):
        load_encoder(tmp_path)


def test_missing_tensor_is_named() -> None:
    encoder = minilm_module()
    state = dict(encoder.module.state_dict())
    del state["pooler.dense.bias"]
    with pytest.raises(InputError, match=r"'pooler\.dense\.bias' is missing"):
        encoder.with_state(state)
