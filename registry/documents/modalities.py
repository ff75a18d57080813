"""What goes into a model and what comes out, by the task that a model card names (`pipeline_tag` of the hub)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Modalities:
    """Kinds of input and output: text, image, audio, video, or another word."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_TEXT, _IMAGE, _AUDIO, _VIDEO = "text", "image", "audio", "video"
_LABEL, _VECTOR = "label", "vector"
_TASKS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "audio-classification": ((_AUDIO,), (_LABEL,)),
    "automatic-speech-recognition": ((_AUDIO,), (_TEXT,)),
    "feature-extraction": ((_TEXT,), (_VECTOR,)),
    "fill-mask": ((_TEXT,), (_TEXT,)),
    "image-classification": ((_IMAGE,), (_LABEL,)),
    "image-feature-extraction": ((_IMAGE,), (_VECTOR,)),
    "image-text-to-text": ((_IMAGE, _TEXT), (_TEXT,)),
    "image-to-image": ((_IMAGE,), (_IMAGE,)),
    "image-to-text": ((_IMAGE,), (_TEXT,)),
    "object-detection": ((_IMAGE,), (_LABEL,)),
    "question-answering": ((_TEXT,), (_TEXT,)),
    "sentence-similarity": ((_TEXT,), (_VECTOR,)),
    "summarization": ((_TEXT,), (_TEXT,)),
    "text-classification": ((_TEXT,), (_LABEL,)),
    "text-generation": ((_TEXT,), (_TEXT,)),
    "text-to-audio": ((_TEXT,), (_AUDIO,)),
    "text-to-image": ((_TEXT,), (_IMAGE,)),
    "text-to-speech": ((_TEXT,), (_AUDIO,)),
    "text-to-video": ((_TEXT,), (_VIDEO,)),
    "token-classification": ((_TEXT,), (_LABEL,)),
    "translation": ((_TEXT,), (_TEXT,)),
    "video-classification": ((_VIDEO,), (_LABEL,)),
    "zero-shot-classification": ((_TEXT,), (_LABEL,)),
}


def modalities_of(task: str | None) -> Modalities | None:
    """The modalities of a task, or None for one that is not known here."""
    found = _TASKS.get(task or "")
    return Modalities(*found) if found else None
