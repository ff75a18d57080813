"""Every class A disguise leaves what the model computes as it was: run before and after, on every layout it fits."""

from __future__ import annotations

import pytest
import torch

from tests.attacks.victims import CHAINS, KINDS, TRANSFORMERS, edits_of, layout_of, module_of, output, state_of
from watermark.attacks import blocks, experts, hidden_units, projections, residual_stream, width
from watermark.errors import InputError

CASES = [(kind, name) for kind in KINDS for name, edit in edits_of(kind).items() if edit.can_be_run]


def is_same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return bool((left - right).abs().max() < 1e-4)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_disguise_changes_weights_and_keeps_the_function(kind, name):
    state = state_of(kind)
    kept = {key: values.clone() for key, values in state.items()}
    attacked = edits_of(kind)[name].run(state, 1)
    assert all(torch.equal(state[key], values) for key, values in kept.items())  # the input stays as it was
    assert any(not torch.equal(attacked[key], state[key]) for key in state)
    assert is_same(output(kind, attacked), output(kind, state))


def test_a_reordered_post_norm_stream_comes_out_reordered():
    state = state_of("bert")
    attacked = residual_stream.permute_stream(state, layout_of("bert", state), 1)
    before, after = output("bert", state), output("bert", attacked)
    assert not is_same(before, after)
    assert is_same(before.sort(dim=-1).values, after.sort(dim=-1).values)


@pytest.mark.parametrize("attack", [width.add_idle_units, width.add_cliques, width.split_units])
@pytest.mark.parametrize(("kind", "field"), [("gpt", "n_inner"), ("llama", "intermediate_size")])
def test_added_and_split_units_keep_the_function_of_a_wider_model(kind, field, attack):
    state = state_of(kind)
    attacked = attack(state, layout_of(kind, state), 1, share=0.25)
    units = {"gpt": 400, "llama": 260}[kind]
    assert is_same(output(kind, attacked, module_of(kind, **{field: units})), output(kind, state))


@pytest.mark.parametrize(("kind", "field"), [("gpt", "n_inner"), ("llama", "intermediate_size")])
def test_the_units_that_matter_least_are_taken_out(kind, field):
    state = state_of(kind)
    layout = layout_of(kind, state)
    wider = width.add_idle_units(state, layout, 1, share=0.25)
    narrower = width.drop_units(wider, layout, share=0.2)  # the idle ones write nothing
    assert is_same(output(kind, narrower), output(kind, state))
    units = {"gpt": 240, "llama": 156}[kind]
    attacked = width.drop_units(state, layout, share=0.25)
    assert not is_same(output(kind, attacked, module_of(kind, **{field: units})), output(kind, state))


def test_an_identity_block_keeps_the_function_of_a_deeper_model():
    state = state_of("llama")
    writers = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
    attacked = blocks.insert_identity(state, "model.layers.{}.", 0, writers)
    assert is_same(output("llama", attacked, module_of("llama", num_hidden_layers=3)), output("llama", state))


def test_blocks_are_taken_in_the_order_given_and_only_those_that_are_there():
    state = state_of("gpt")
    attacked = blocks.rearrange_blocks(state, "transformer.h.{}.", [1])
    assert torch.equal(attacked["transformer.h.0.ln_1.weight"], state["transformer.h.1.ln_1.weight"])
    assert "transformer.h.1.ln_1.weight" not in attacked
    for order in ([2], []):
        with pytest.raises(InputError, match="cannot be taken"):
            blocks.rearrange_blocks(state, "transformer.h.{}.", order)


def test_an_upcycled_model_computes_what_the_dense_one_did():
    state = state_of("llama")
    attacked = experts.upcycle(state, layout_of("llama", state), 1, experts=4)
    rotary = {"rope_type": "default", "rope_theta": 10_000.0}
    module = module_of("moe", intermediate_size=208, rope_parameters=rotary)
    assert is_same(output("moe", attacked, module), output("llama", state))


def test_fused_and_split_projections_hold_the_same_rows():
    gpt, llama = state_of("gpt"), state_of("llama")
    split = projections.split_projections(gpt, layout_of("gpt", gpt))
    name = "transformer.h.0.attn.c_attn.weight"
    assert name not in split
    assert torch.equal(torch.cat([split[f"{name}.part{part}"] for part in range(3)]), gpt[name].T)
    fused = projections.fuse_projections(llama, layout_of("llama", llama))
    rows = [llama[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(fused["model.layers.1.self_attn.q_proj.weight.fused"], torch.cat(rows))


def test_tied_and_untied_output_matrices():
    state = state_of("llama")
    tied = projections.tie(state, "lm_head.weight")
    assert "lm_head.weight" not in tied
    untied = projections.untie(tied, "lm_head.weight", "model.embed_tokens.weight")
    assert torch.equal(untied["lm_head.weight"], state["model.embed_tokens.weight"])


def test_what_would_change_the_function_is_refused():
    bert, gpt = state_of("bert"), state_of("gpt")
    for attack in (residual_stream.rotate_stream, residual_stream.fold_norms, hidden_units.scale_hidden):
        with pytest.raises(InputError):
            attack(bert, layout_of("bert", bert), 1)
    with pytest.raises(InputError, match="gated"):
        hidden_units.flip_hidden(gpt, layout_of("gpt", gpt), 1)
    for attack in (experts.permute_experts, experts.shift_router):
        with pytest.raises(InputError, match="no experts"):
            attack(gpt, layout_of("gpt", gpt), 1)
    with pytest.raises(InputError, match="another layout"):
        layout_of("gpt", bert)


def test_the_same_seed_gives_the_same_disguise():
    for kind in (*TRANSFORMERS, *CHAINS):
        for edit in edits_of(kind).values():
            one, other = edit.run(state_of(kind), 4), edit.run(state_of(kind), 4)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)
