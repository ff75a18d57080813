from __future__ import annotations

import pytest

from registry.log.checkpoint import Checkpoint, parse_checkpoint, read_checkpoint, sign_checkpoint
from registry.log.cosignature import cosign, cosignature_message, verify_cosignatures
from registry.log.merkle import EMPTY_ROOT
from registry.log.note import ED25519_COSIGNATURE, Note, NoteSigner, NoteVerifier, SignatureLine, parse_note
from tests.registry.example_log import LOG_KEY, ORIGIN, WITNESS_KEY
from watermark.errors import DocumentError, InputError, SignatureError, UntrustedKeyError, VerificationError

SIGNER = NoteSigner(ORIGIN, LOG_KEY)
VKEY = SIGNER.verifier.vkey
CHECKPOINT = Checkpoint(ORIGIN, 5, EMPTY_ROOT)
WITNESS = NoteVerifier("witness.example", ED25519_COSIGNATURE, WITNESS_KEY.public.raw)
ROOT_TEXT = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


def test_round_trip_with_extension_lines() -> None:
    extended = Checkpoint(ORIGIN, 5, EMPTY_ROOT, ("one", "two"))
    assert parse_checkpoint(extended.text()) == extended
    assert read_checkpoint(sign_checkpoint(extended, SIGNER), [VKEY]) == extended


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"\n5\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n5\n{ROOT_TEXT}",
        f"{ORIGIN}\n5\n",
        f"5\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n05\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n+5\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n-5\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n5 \n{ROOT_TEXT}\n",
        f"{ORIGIN}\n\u0665\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n{2**63}\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n0x5\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n\n{ROOT_TEXT}\n",
        f"{ORIGIN}\n5\n{ROOT_TEXT[:-1]}\n",
        f"{ORIGIN}\n5\n{ROOT_TEXT[:-4]}\n",
        f"{ORIGIN}\n5\n{ROOT_TEXT.replace('+', '-')}\n",
        f"{ORIGIN}\n5\n{ROOT_TEXT.replace('U=', 'V=')}\n",
        f"{ORIGIN}\n5\n{ROOT_TEXT}\n\n",
        f"{ORIGIN}\n5\n{ROOT_TEXT}\none\n\ntwo\n",
        f"a b\n5\n{ROOT_TEXT}\n",
    ],
)
def test_what_is_not_a_checkpoint(text: str) -> None:
    with pytest.raises(DocumentError):
        parse_checkpoint(text)


def test_the_key_must_be_named_like_the_origin() -> None:
    with pytest.raises(DocumentError):
        sign_checkpoint(Checkpoint("other.example", 5, EMPTY_ROOT), SIGNER)
    other = Checkpoint("other.example", 5, EMPTY_ROOT)
    foreign = Note(other.text(), (SIGNER.sign(other.text()),)).encode()
    with pytest.raises(UntrustedKeyError):
        read_checkpoint(foreign, [VKEY])


def test_a_cosigner_does_not_speak_for_the_log() -> None:
    text = CHECKPOINT.text()
    own_name = NoteVerifier(ORIGIN, ED25519_COSIGNATURE, WITNESS_KEY.public.raw)
    note = Note(text, (cosign(text, ORIGIN, WITNESS_KEY, 1),))
    with pytest.raises(UntrustedKeyError):
        read_checkpoint(note.encode(), [VKEY, own_name.vkey])


def test_every_changed_byte_of_a_checkpoint_is_refused() -> None:
    data = sign_checkpoint(CHECKPOINT, SIGNER)
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
            with pytest.raises((InputError, VerificationError)):
                read_checkpoint(changed, [VKEY])


def test_cosignatures_bind_time_and_text() -> None:
    text = CHECKPOINT.text()
    line = cosign(text, WITNESS.name, WITNESS_KEY, 1000)
    (found,) = verify_cosignatures(Note(text, (line, line)), [WITNESS])
    assert (found.verifier, found.time) == (WITNESS, 1000)
    other = Checkpoint(ORIGIN, 6, EMPTY_ROOT).text()
    later = SignatureLine(line.name, line.key_id, (1001).to_bytes(8, "big") + line.signature[8:])
    far = SignatureLine(line.name, line.key_id, (2**63).to_bytes(8, "big") + line.signature[8:])
    short = SignatureLine(line.name, line.key_id, line.signature[:-1])
    for note in (Note(other, (line,)), Note(text, (later,)), Note(text, (far,)), Note(text, (short,))):
        with pytest.raises(SignatureError):
            verify_cosignatures(note, [WITNESS])
    assert verify_cosignatures(Note(text, (line,)), []) == ()


def test_cosignature_times_are_bounded() -> None:
    assert cosignature_message("x\n", 2**63 - 1)
    for time in (-1, 2**63):
        with pytest.raises(DocumentError):
            cosignature_message("x\n", time)


def test_a_plain_signature_of_a_witness_is_no_cosignature() -> None:
    text = CHECKPOINT.text()
    plain = SignatureLine(WITNESS.name, WITNESS.key_id, (5).to_bytes(8, "big") + WITNESS_KEY.sign(text.encode()))
    with pytest.raises(SignatureError):
        verify_cosignatures(parse_note(Note(text, (plain,)).encode()), [WITNESS])
