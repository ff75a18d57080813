from __future__ import annotations

import base64

import pytest

from registry.log.note import (
    ED25519_NOTE,
    Note,
    NoteSigner,
    NoteVerifier,
    SignatureLine,
    parse_note,
    read_vkey,
    verify_note,
)
from tests.registry.example_log import LOG_KEY, ORIGIN, WITNESS_KEY
from watermark.errors import InputError, LimitError, SignatureError, UntrustedKeyError, VerificationError

SIGNER = NoteSigner(ORIGIN, LOG_KEY)
TEXT = "first line\n\nafter an empty line\n"
NOTE = Note(TEXT, (SIGNER.sign(TEXT),))
LINE = NOTE.signatures[0].text().encode()


def test_a_note_is_split_at_its_last_empty_line() -> None:
    assert parse_note(NOTE.encode()) == NOTE
    assert verify_note(parse_note(NOTE.encode()), [SIGNER.verifier]) == (SIGNER.verifier,)


def test_lines_of_unknown_keys_are_passed_over() -> None:
    stranger = NoteSigner("someone.example", WITNESS_KEY)
    other_type = SignatureLine(ORIGIN, b"abcd", b"x" * 72)
    note = Note(TEXT, (stranger.sign(TEXT), SignatureLine("who.example", b"1234", b"?"), other_type, SIGNER.sign(TEXT)))
    assert verify_note(parse_note(note.encode()), [SIGNER.verifier]) == (SIGNER.verifier,)


def test_a_wrong_line_of_a_known_key_spoils_the_note() -> None:
    stranger = NoteSigner("someone.example", WITNESS_KEY)
    wrong = SignatureLine(ORIGIN, SIGNER.verifier.key_id, bytes(64))
    note = Note(TEXT, (stranger.sign(TEXT), wrong))
    with pytest.raises(SignatureError):
        verify_note(note, [SIGNER.verifier, stranger.verifier])
    with pytest.raises(SignatureError):
        verify_note(Note(TEXT, (SIGNER.sign(TEXT), wrong)), [SIGNER.verifier])


def test_one_key_counts_once() -> None:
    line = SIGNER.sign(TEXT)
    assert verify_note(Note(TEXT, (line, line)), [SIGNER.verifier, SIGNER.verifier]) == (SIGNER.verifier,)


def test_nobody_known_is_not_enough() -> None:
    with pytest.raises(UntrustedKeyError):
        verify_note(NOTE, [])
    with pytest.raises(UntrustedKeyError):
        verify_note(NOTE, [NoteSigner("other.example", LOG_KEY).verifier])


def test_every_changed_byte_is_refused() -> None:
    data = NOTE.encode()
    for at in range(len(data)):
        for bit in (1, 0x20, 0x80):
            changed = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            with pytest.raises((InputError, VerificationError)):
                verify_note(parse_note(changed), [SIGNER.verifier])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text" + LINE,
        b"text\n" + LINE,
        b"text\n\n" + LINE[:-1],
        b"text\n\n" + LINE + b"\n",
        b"text\n\n" + LINE + b"more",
        b"te\txt\n\n" + LINE,
        b"te\rxt\n\n" + LINE,
        b"te\0xt\n\n" + LINE,
        b"te\xffxt\n\n" + LINE,
        b"text\n\n" + LINE.replace("—".encode(), b"-"),
        b"text\n\n" + LINE.replace(b" registry", b"  registry"),
        b"text\n\n" + LINE.replace(b".example", b"+example"),
        b"text\n\n" + LINE.replace(b".example", "\u00a0example".encode()),
        b"text\n\n" + "— name ".encode() + b"\n",
        b"text\n\n" + "— name".encode() + b"\n",
        b"text\n\n" + "— name AAAA\n".encode(),
        b"text\n\n" + LINE.replace(b"\n", b" \n"),
        b"text\n\n" + LINE[:-2] + b"\n",
    ],
)
def test_what_is_not_a_note(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_note(data)


def test_base64_has_one_spelling() -> None:
    raw = base64.b64decode(LINE.split(b" ")[2])
    for text in (base64.urlsafe_b64encode(b"\xfb\xff" + raw), base64.b64encode(raw + b"xx").rstrip(b"=")):
        with pytest.raises(InputError):
            parse_note(b"text\n\n" + "— name ".encode() + text + b"\n")
    with pytest.raises(InputError):
        parse_note(b"text\n\n" + "— name QUJDREVGR=\n".encode())
    with pytest.raises(InputError):
        parse_note(b"text\n\n" + "— name QUJDREVGRw==\n".encode().replace(b"Rw==", b"Rx=="))


def test_limits() -> None:
    assert len(parse_note(b"text\n\n" + LINE * 64).signatures) == 64
    with pytest.raises(LimitError):
        parse_note(b"text\n\n" + LINE * 65)
    with pytest.raises(LimitError):
        parse_note(b"x" * (1 << 20) + b"\n\n" + LINE)
    long_line = SignatureLine("name", b"1234", b"s" * 3700)
    assert len(long_line.text()) > 4900
    assert parse_note(Note("text\n", (long_line,)).encode()).signatures == (long_line,)


VKEY = SIGNER.verifier.vkey


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+12345678",
        VKEY.replace("registry", "regist ry"),
        VKEY.replace("registry", "other"),
        VKEY.replace("4517142d", "4517142e"),
        VKEY.replace("4517142d", "4517142D"),
        VKEY[:-4],
        VKEY + "=",
        VKEY + "\n",
        "+" + VKEY.split("+", 1)[1],
        NoteVerifier("name", 0x06, LOG_KEY.public.raw).vkey,
        NoteVerifier("name", ED25519_NOTE, LOG_KEY.public.raw[:31]).vkey,
        NoteVerifier("name", ED25519_NOTE, b"").vkey,
    ],
)
def test_what_is_not_a_verifier_key(vkey: str) -> None:
    with pytest.raises(InputError):
        read_vkey(vkey)


@pytest.mark.parametrize("y", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, 1 << 255])
def test_weak_keys_are_not_enrolled(y: int, sign: int) -> None:
    public = (y | sign).to_bytes(32, "little")
    with pytest.raises(InputError):
        read_vkey(NoteVerifier("name", ED25519_NOTE, public).vkey)


def test_a_name_that_could_not_be_read_back_is_not_signed_under() -> None:
    for name in ("", "a b", "a+b", "a\nb", "a\u2003b"):
        with pytest.raises(InputError):
            NoteSigner(name, LOG_KEY)
