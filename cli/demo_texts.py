"""Real English for the demo's sentence encoder, taken from the docstrings of the Python that runs it.

Gives names of functions with their docstrings, on which a thief can fine-tune and on which retrieval is scored, and
varied sentences, on which embeddings are compared. No download, no data file; the same texts each time on one
Python version. Sources are parsed, never imported: importing the whole standard library opens browsers and sockets.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from watermark.errors import InputError

# Chosen for subjects far apart, so that neither names nor sentences are all about one thing.
MODULES = (
    "argparse", "ast", "asyncio/base_events", "asyncio/streams", "bdb", "calendar", "cmd", "codecs",
    "collections/__init__", "compileall", "concurrent/futures/_base", "configparser", "contextlib", "copy",
    "csv", "datetime", "decimal", "difflib", "dis", "doctest", "email/message", "email/utils", "enum",
    "filecmp", "fileinput", "fractions", "ftplib", "functools", "getpass", "gettext", "glob", "gzip", "heapq",
    "html/parser", "http/client", "http/cookiejar", "imaplib", "inspect", "ipaddress", "json/__init__",
    "locale", "logging/__init__", "logging/handlers", "lzma", "mailbox", "mimetypes",
    "multiprocessing/managers", "ntpath", "numbers", "os", "pathlib", "pdb", "pickle", "pickletools",
    "platform", "plistlib", "poplib", "posixpath", "pprint", "profile", "queue", "quopri", "random",
    "reprlib", "sched", "secrets", "selectors", "shelve", "shlex", "shutil", "smtplib", "socket",
    "socketserver", "statistics", "string", "subprocess", "symtable", "tarfile", "tempfile", "textwrap",
    "threading", "timeit", "tokenize", "trace", "traceback", "turtle", "types", "typing", "unittest/case",
    "unittest/mock", "urllib/parse", "urllib/request", "urllib/robotparser", "uuid", "warnings", "wave",
    "weakref", "xml/dom/minidom", "xml/etree/ElementTree", "xmlrpc/client", "zipapp", "zipfile",
    "zoneinfo/_zoneinfo",
)  # fmt: skip

HELD_OUT_EVERY = 4


@dataclass(frozen=True)
class Pair:
    """What a function is called, in words, and what its docstring says it does."""

    name: str
    docstring: str


@dataclass(frozen=True)
class _Docstring:
    owner: str
    name: str
    text: str


@cache
def _docstrings() -> tuple[_Docstring, ...]:
    """Every docstring of the chosen modules, in their order; a module this Python lacks is passed over."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: list[_Docstring] = []
    for module in MODULES:
        for path in (library / f"{module}.py", library / module / "__init__.py"):
            if path.is_file():
                tree = ast.parse(path.read_text(encoding="utf-8"))
                found.extend(_walk(tree, module.removesuffix("/__init__").replace("/", " ")))
                break
    if not found:
        raise InputError(
            f"no source of the Python standard library is in {library}",
            hint="run the demo on a Python that was installed with its library sources",
        )
    return tuple(found)


def _walk(node: ast.AST, owner: str) -> Iterator[_Docstring]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(child)
            if text:
                yield _Docstring(owner, child.name, text)
            if isinstance(child, ast.ClassDef):
                yield from _walk(child, f"{owner} {child.name}")


@cache
def retrieval_pairs() -> tuple[Pair, ...]:
    """Return names of functions and classes with the first paragraph of their docstrings; no docstring twice."""
    seen: set[str] = set()
    pairs = []
    for found in _docstrings():
        paragraph = " ".join(found.text.split("\n\n")[0].split())
        words = len(paragraph.split())
        if found.name.startswith("__") or not 5 <= words <= 60 or paragraph in seen:
            continue
        seen.add(paragraph)
        pairs.append(Pair(_in_words(f"{found.owner} {found.name}"), paragraph))
    return tuple(pairs)


def _in_words(name: str) -> str:
    """`email message EmailMessage.get_body` as lower-case words."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ")
    return " ".join(parted.lower().split())


def training_pairs() -> tuple[Pair, ...]:
    """Return the pairs to train on: three of every four."""
    return tuple(pair for index, pair in enumerate(retrieval_pairs()) if index % HELD_OUT_EVERY)


def held_out_pairs() -> tuple[Pair, ...]:
    """Return the pairs to score on, never trained on: every fourth."""
    return retrieval_pairs()[::HELD_OUT_EVERY]


def sentences(count: int = 200) -> tuple[str, ...]:
    """Return `count` different sentences of 6 to 40 words, spread evenly over all modules.

    Raises:
        InputError: the library holds fewer.
    """
    # Not first paragraphs, which `retrieval_pairs` takes: what a fine-tune trains on does not measure its side effects.
    found: dict[str, None] = {}
    for docstring in _docstrings():
        rest = " ".join(docstring.text.partition("\n\n")[2].split())
        for sentence in re.findall(r"[A-Z][^.!?>]*[a-z][.!?](?=\s|$)", rest):
            if 6 <= len(sentence.split()) <= 40:
                found[sentence] = None
    if len(found) < count:
        raise InputError(f"the standard library holds {len(found)} sentences, not {count}", hint="ask for fewer")
    every = list(found)
    return tuple(every[index * len(every) // count] for index in range(count))
