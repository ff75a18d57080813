from __future__ import annotations

import pytest

from cli.demo_texts import held_out_pairs, retrieval_pairs, sentences, training_pairs
from watermark.errors import InputError


def test_pairs_are_many_and_none_is_repeated() -> None:
    pairs = retrieval_pairs()
    assert len(pairs) > 1500
    assert len({pair.docstring for pair in pairs}) == len(pairs)


def test_names_are_plain_words() -> None:
    assert all(pair.name == pair.name.lower() and "_" not in pair.name for pair in retrieval_pairs())
    assert any(pair.name == "shutil copy file range" or pair.name == "shutil copyfile" for pair in retrieval_pairs())


def test_held_out_pairs_are_never_trained_on() -> None:
    trained, held_out = set(training_pairs()), set(held_out_pairs())
    assert not trained & held_out
    assert trained | held_out == set(retrieval_pairs())
    assert len(held_out) > 300


def test_sentences_are_whole_varied_and_not_in_the_pairs() -> None:
    chosen = sentences(200)
    assert len(set(chosen)) == 200
    assert all(6 <= len(sentence.split()) <= 40 and sentence[-1] in ".!?" for sentence in chosen)
    assert len({sentence.split()[0] for sentence in chosen}) > 50
    docstrings = {pair.docstring for pair in retrieval_pairs()}
    assert sum(sentence in docstrings for sentence in chosen) < 10


def test_sentences_are_the_same_each_time() -> None:
    assert sentences(200) == sentences(200)


def test_more_sentences_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="not 1000000"):
        sentences(1_000_000)
