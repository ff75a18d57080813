"""A weight file written in two runs is the file of one run, and what does not hold is written anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.watermark.marks.models import write_model
from watermark.model import rewrite
from watermark.model.digest import Span
from watermark.model.directory import open_model
from watermark.model.rewrite import Finished, NewBytes, WrittenShard, rewrite_shard

SHARD = "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    draw = np.random.default_rng(1)
    shapes = {"a": (300, 200), "empty": (0, 4), "b": (7,), "c": (64, 96)}
    weights = {name: draw.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return write_model(tmp_path / "model", weights)


class Stopped(Exception):
    pass


class Run:
    """Rewrites to two copies; `stop_at` names a tensor at which the work breaks off."""

    def __init__(self, place: Path, model: Path, stop_at: str | None = None) -> None:
        self.changed: set[str] = set()
        self.noted: dict[str, Finished] = {}
        self._model, self._stop_at = model, stop_at
        self._targets = [place / "0" / SHARD, place / "1" / SHARD]
        for target in self._targets:
            target.parent.mkdir(parents=True, exist_ok=True)

    def change(self, span: Span, raw: bytes) -> NewBytes:
        if span.tensor.name == self._stop_at:
            raise Stopped
        self.changed.add(span.tensor.name)
        return NewBytes((raw[::-1], bytes(255 - byte for byte in raw)), float(len(raw)))

    def go(self, finished: Mapping[str, Finished]) -> tuple[WrittenShard, ...]:
        with open_model(self._model) as opened:
            return rewrite_shard(
                opened, SHARD, self._targets, self.change, finished=finished, on_disk=self.noted.update
            )

    def bytes(self) -> list[bytes]:
        return [target.read_bytes() for target in self._targets]


def test_what_was_finished_is_taken_over_and_what_does_not_hold_is_not(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "_NOTE_BYTES", 0)
    whole = Run(tmp_path / "whole", model)
    expected = whole.go({})
    assert list(whole.noted) == [name for name in expected[0].tensors if name != "empty"]
    order = list(whole.noted)

    stopped = Run(tmp_path / "parts", model, stop_at=order[-1])
    with pytest.raises(Stopped):
        stopped.go({})
    assert list(stopped.noted) == order[:-1]
    left = stopped.bytes()
    resumed = Run(tmp_path / "parts", model)
    assert resumed.go(stopped.noted) == expected
    assert resumed.bytes() == whole.bytes()
    assert resumed.changed == {order[-1]}

    # One bit of what was finished is wrong, or a part of it is missing, or the notes speak of another order.
    flipped = [left[0], left[1][:-200] + bytes([left[1][-200] ^ 1]) + left[1][-199:]]
    with open_model(model) as opened:
        end = opened.tensors[order[0]].begin + opened.tensors[order[0]].nbytes
    flipped[1] = left[1][: end - 1] + bytes([left[1][end - 1] ^ 1]) + left[1][end:]
    cases = [(flipped, stopped.noted), ([left[0], left[1][: end - 1]], stopped.noted), ([], stopped.noted)]
    cases.append((left, dict(reversed(stopped.noted.items()))))
    for number, (begun, noted) in enumerate(cases):
        anew = Run(tmp_path / f"anew{number}", model)
        for copy, data in enumerate(begun):
            (tmp_path / f"anew{number}" / str(copy) / SHARD).write_bytes(data)
        assert anew.go(noted) == expected
        assert anew.bytes() == whole.bytes()
        assert anew.changed == set(order)
