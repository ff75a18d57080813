"""The options that every command takes, before or after its name, and the way from a job's answer to the exit code.

`--home`, `--registry`, `--json`, `--quiet` everywhere; `--version` before a name, `--passphrase-fd` and `--pin-fd`
where something is unlocked.
Knows typer and nothing of any job.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.answer import Answer, emit
from cli.progress import Progress, progress_bar


@dataclass(frozen=True)
class Options:
    """The shared options of one run, wherever on the command line they stood."""

    home: Path
    registry: str | None
    as_json: bool
    quiet: bool
    passphrase_fd: int | None = None
    pin_fd: int | None = None

    def pin(self) -> Callable[[str], bytes]:
        """A way to get the PIN of a token, named to it, that asks when it is first needed, once for each token."""
        known: dict[str, bytes] = {}

        def ask(store: str) -> bytes:
            from cli.passphrase import read_pin

            if store not in known:
                known[store] = read_pin(store, self.pin_fd)
            return known[store]

        return ask

    def passphrase(self, *, confirm: bool = False, what: str = "passphrase") -> Callable[[], bytes]:
        """A way to get the passphrase that asks when it is first needed, and only then."""
        known: list[bytes] = []

        def ask() -> bytes:
            from cli.passphrase import read_passphrase  # nothing of ours below cli loads before `packages` has looked

            if not known:
                known.append(read_passphrase(self.passphrase_fd, confirm=confirm, what=what))
            return known[0]

        return ask

    def progress(self, label: str) -> AbstractContextManager[Progress | None]:
        """A progress bar on stderr while the block runs, where somebody looks."""
        return progress_bar(label, quiet=self.quiet)


def _print_version(asked: bool) -> None:
    """Print the version that is installed and stop."""
    if asked:
        from importlib.metadata import version

        print(f"weightmark {version('weightmark')}")
        raise typer.Exit(0)


_HOME = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The owner's home; else WEIGHTMARK_HOME, else ~/.weightmark."),
]
_REGISTRY = Annotated[
    str | None, typer.Option("--registry", metavar="URL", help="A registry service; else WEIGHTMARK_REGISTRY.")
]
_JSON = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
_QUIET = Annotated[bool, typer.Option("--quiet", help="Only the first line of the answer, and no progress.")]
_VERSION = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
]
_PASSPHRASE_FD = Annotated[
    int | None,
    typer.Option("--passphrase-fd", metavar="N", help="Read the passphrase from this file descriptor."),
]
_PIN_FD = Annotated[
    int | None,
    typer.Option("--pin-fd", metavar="N", help="Read a token's PIN from this file descriptor."),
]
_SHARED: dict[str, tuple[Any, Any]] = {
    "home": (_HOME, None),
    "registry": (_REGISTRY, None),
    "json": (_JSON, False),
    "quiet": (_QUIET, False),
}


def take_shared_options(app: typer.Typer, *, tells_version: bool = False) -> None:
    """Let an app take the shared options before a command's name; its help text is the app's own."""

    def before_command(context: typer.Context, **given: Any) -> None:
        context.obj = {**(context.obj or {}), **{name: value for name, value in given.items() if _is_given(value)}}

    parameters = [_parameter("context", typer.Context), *_shared_parameters(unlocks=False)]
    if tells_version:
        parameters.append(_parameter("version", _VERSION, False))
    _present(before_command, parameters, before_command)
    before_command.__doc__ = app.info.help if isinstance(app.info.help, str) else None
    app.callback()(before_command)


def add_command(
    app: typer.Typer,
    name: str,
    job: Callable[..., Answer],
    *,
    unlocks: bool = False,
    uses_registry: bool = False,
    hidden: bool = False,
) -> None:
    """Make a command of a function that takes `Options` and its own flags and returns an Answer.

    With `unlocks` it takes --passphrase-fd; with `uses_registry` it refuses a registry service, which this version
    cannot ask. A `hidden` command is not listed by --help. The answer is printed in the form that was asked for and its
    exit code becomes the process's; errors pass through.
    """
    own = [one for one in inspect.signature(job, eval_str=True).parameters.values() if one.name != "options"]
    own_names = {one.name for one in own}

    def run(context: typer.Context, **given: Any) -> None:
        shared = {key: value for key, value in given.items() if key not in own_names and _is_given(value)}
        options = _options({**(context.obj or {}), **shared}, uses_registry=uses_registry)
        answer = job(options, **{key: given[key] for key in own_names})
        emit(answer, as_json=options.as_json, quiet=options.quiet)
        raise typer.Exit(answer.exit_code)

    parameters = [_parameter("context", typer.Context)]
    parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    _present(run, [*parameters, *_shared_parameters(unlocks=unlocks)], job)
    app.command(name, hidden=hidden)(run)


def _is_given(value: object) -> bool:
    """Whether an option stood on the command line: neither absent nor a flag that is off (0 is a descriptor)."""
    return value is not None and value is not False


def _options(shared: dict[str, Any], *, uses_registry: bool) -> Options:
    from cli.home import home_path  # brings the key library: not for --help

    registry = shared.get("registry") or os.environ.get("WEIGHTMARK_REGISTRY") or None
    if registry and uses_registry:
        from watermark.errors import UnavailableError

        raise UnavailableError(
            f"the registry service {registry!a} cannot be asked: this version knows the embedded registry only",
            hint="leave out --registry and unset WEIGHTMARK_REGISTRY to use the registry in your home",
        )
    return Options(
        home=home_path(shared.get("home")),
        registry=registry,
        as_json=bool(shared.get("json")),
        quiet=bool(shared.get("quiet")),
        passphrase_fd=shared.get("passphrase_fd"),
        pin_fd=shared.get("pin_fd"),
    )


def _shared_parameters(*, unlocks: bool) -> list[inspect.Parameter]:
    unlocking = {"passphrase_fd": (_PASSPHRASE_FD, None), "pin_fd": (_PIN_FD, None)}
    shared = {**_SHARED, **(unlocking if unlocks else {})}
    return [_parameter(name, annotation, default) for name, (annotation, default) in shared.items()]


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _present(function: Callable[..., None], parameters: list[inspect.Parameter], like: Callable[..., Any]) -> None:
    """Show typer these parameters in place of the function's own `**given`."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    function.__doc__, function.__name__ = like.__doc__, like.__name__
