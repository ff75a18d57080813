"""The command `weightmark`: flags to arguments, errors to exit codes, nothing else.

Exit codes: 0 the claim holds, 1 checked and it does not hold, 2 usage or unusable input, 3 undecided, 4 could not run,
130 interrupted. Jobs, and all that they need, are imported by the command that runs: `--help` loads neither torch nor
SQLAlchemy.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.main import get_command

from cli import (
    commands_conformance,
    commands_export,
    commands_home,
    commands_key_life,
    commands_keys,
    commands_models,
    commands_rehearse,
    commands_time,
)
from cli.answer import emit_error
from cli.options import add_command, take_shared_options
from cli.packages import FIX, foreign_package

USAGE, COULD_NOT_RUN, INTERRUPTED = 2, 4, 130


def build_app() -> typer.Typer:
    """Put the commands together, in the order in which a newcomer needs them."""
    plain = {"rich_markup_mode": None, "add_completion": False, "pretty_exceptions_enable": False}
    app = typer.Typer(help="Mark, sign, register and later recognise model weights.", **plain)  # type: ignore[arg-type]
    take_shared_options(app, tells_version=True)
    add_command(app, "init", commands_home.init, unlocks=True)
    add_command(app, "release", commands_models.release, unlocks=True, uses_registry=True)
    add_command(app, "verify", commands_models.verify)
    add_command(app, "sign", commands_models.sign, unlocks=True)
    add_command(app, "check", commands_models.check, unlocks=True, uses_registry=True)
    add_command(app, "evidence", commands_models.evidence)
    add_command(app, "rehearse", commands_rehearse.rehearse)
    add_command(app, "audit", commands_home.audit, uses_registry=True)
    add_command(app, "list", commands_home.list_releases, uses_registry=True)
    add_command(app, "show", commands_home.show, uses_registry=True)
    add_command(app, "export", commands_export.export, unlocks=True, uses_registry=True)
    add_command(app, "doctor", commands_home.doctor)
    add_command(app, "demo", commands_home.demo)
    add_command(app, "sign-model", commands_conformance.sign_model, unlocks=True, hidden=True)
    add_command(app, "verify-model", commands_conformance.verify_model, hidden=True)
    keys = typer.Typer(help="The owner's keys: list, show, export the trust file, change the passphrase.", **plain)  # type: ignore[arg-type]
    take_shared_options(keys)
    add_command(keys, "list", commands_home.keys_list)
    add_command(keys, "show", commands_home.keys_show)
    add_command(keys, "export", commands_home.keys_export)
    add_command(keys, "change-passphrase", commands_home.keys_change_passphrase, unlocks=True)
    add_command(keys, "make", commands_keys.make, unlocks=True)
    add_command(keys, "backup", commands_keys.backup, unlocks=True)
    add_command(keys, "restore", commands_keys.restore)
    add_command(keys, "wrap-secret", commands_keys.wrap_secret, unlocks=True)
    add_command(keys, "seal-secret", commands_keys.seal_secret, unlocks=True)
    add_command(keys, "trust-tsa", commands_time.trust_tsa)
    for name, job in commands_key_life.COMMANDS.items():
        add_command(keys, name, job, unlocks=True, uses_registry=name not in ("approve", "cosign"))
    app.add_typer(keys, name="keys")
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code; whatever goes wrong is told in the form that was asked for."""
    as_json = "--json" in arguments
    problem = foreign_package()
    if problem is not None:
        emit_error("foreign-package", f"weightmark does not start: {problem}", FIX, as_json=as_json)
        return COULD_NOT_RUN
    from watermark.errors import WeightmarkError  # only now: the package of that name is ours

    try:
        return _invoke(arguments)
    except WeightmarkError as error:
        emit_error(error.code, str(error), error.hint, as_json=as_json)
        return error.exit_code
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else "weightmark"
        emit_error("usage", error.format_message(), f"see `{name} --help`", as_json=as_json)
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        emit_error("interrupted", "interrupted", "run the same command again: it goes on safely", as_json=as_json)
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        emit_error("system", f"{place}{error.strerror or error}", "see `weightmark doctor`", as_json=as_json)
        return COULD_NOT_RUN
    except Exception as error:  # noqa: BLE001  one of the two broad ones: nobody above could tell it better
        if os.environ.get("WEIGHTMARK_DEBUG") == "1":
            traceback.print_exc()
        hint = "this is a bug of weightmark: set WEIGHTMARK_DEBUG=1, run again and report the traceback"
        emit_error("internal", f"{type(error).__name__}: {error}", hint, as_json=as_json)
        return COULD_NOT_RUN


def _invoke(arguments: Sequence[str]) -> int:
    # Not app(...): that hangs typer's own exception display on sys.excepthook.
    command = get_command(build_app())
    spread = commands_conformance.spread_lists(arguments)
    code = command.main(args=spread or ["--help"], prog_name="weightmark", standalone_mode=False)
    if code == INTERRUPTED:
        raise KeyboardInterrupt  # typer has made an exit code of it, silently
    if not arguments:
        return USAGE  # nothing was asked for, so nothing holds
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the console script."""
    # Large work is spread over forked processes, and numpy's BLAS would start its own threads in each of them: on two
    # cores the check of an innocent model took 55 s instead of 9. Set before numpy is loaded, unless the user set it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
