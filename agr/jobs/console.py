"""A command at its console: errors of one line, clean stops, and --help of programs not Hydra's."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from agr.config.messages import explain
from agr.config.overrides import RUNNING_FLAGS, shell_command
from agr.jobs.output import tolerant_output
from agr.utils.errors import ConfigError, first_line, one_line
from agr.utils.process import NO_SPACE, keep_freed_memory, set_up_process
from agr.utils.program import as_called
from agr.utils.signals import ENDING, Interrupted, stoppable

# Set for a run that another of our commands started, which itself says how to go on.
INNER = "AGR_INNER"
# Commands that do nothing but print.
PRINTING = {"check", "plan", "status", "verify", "review", "list_attacks"}


def script(work: Callable[[], None], text: str | None) -> None:
    """Run a program's `work`, or print its `text` where the user asks for help."""
    asked = {"-h", "--help"} & set(sys.argv[1:])
    guard((lambda: print(as_called(text or "").strip())) if asked else work)


def guard(work: Callable[[], None], *, full: bool = False, keep_memory: bool = True) -> None:
    """Run `work`; what a user can mend ends with one line on stderr and exit code 2.

    Ctrl-C, SIGTERM and SIGHUP end it with what is finished written, and with the way to go on. What
    can't be printed doesn't end it; the exit code is then 1 if printing was all that it had to do.

    Args:
        work: the program.
        full: show Python's traceback instead of one line.
        keep_memory: have the process keep the memory that it frees.
    """
    set_up_process()
    if keep_memory:
        keep_freed_memory()
    with tolerant_output():
        try:
            with stoppable():
                _print_only(work) if _prints_only() else work()
        except (ConfigError, HydraException, OmegaConfBaseException, OSError) as e:
            if full:
                raise
            print(f"error: {one_line(_message(e))}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt as e:
            number = e.number if isinstance(e, Interrupted) else signal.SIGINT
            for n in ENDING if isinstance(e, Interrupted) else ():
                signal.signal(n, signal.SIG_IGN)  # while the interpreter ends
            by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            if INNER not in os.environ:
                print(
                    f"stopped by {by}: what was finished is kept; the same command goes on: "
                    f"{_command()}",
                    file=sys.stderr,
                )
            raise SystemExit(128 + number) from None


def _prints_only() -> bool:
    """Tell by its words whether the command runs nothing: --help and --cfg don't."""
    flags = {word.partition("=")[0] for word in sys.argv[1:] if word.startswith("-")}
    return Path(sys.argv[0]).stem in PRINTING or not flags <= {*RUNNING_FLAGS}


def _print_only(work: Callable[[], None]) -> None:
    try:
        work()
    except SystemExit as e:
        if e.code:
            raise
    sys.stdout.flush()
    if getattr(sys.stdout, "lost", False):
        raise SystemExit(1)


def _message(e: BaseException) -> str:
    error = e.__cause__ if isinstance(e.__cause__, ConfigError) else e
    if isinstance(error, ConfigError):
        return str(error)  # whole: a line break in it is a name's, and written out
    return _system_message(error) if isinstance(error, OSError) else explain(error)


def _system_message(e: OSError) -> str:
    """Name what the system refused, and the way out where it is known."""
    place = Path(str(e.filename)).parent if e.filename else "a disk"
    if e.errno in NO_SPACE:
        return (
            f"no space is left in {place}: what was finished is kept; make room, and the same "
            f"command goes on: {_command()}"
        )
    if e.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"{e.filename or place} cannot be read or written ({e.strerror}): what was finished is "
            f"kept; once it can, the same command goes on: {_command()}"
        )
    if where := e.filename2 or e.filename:
        given = next((word for word in sys.argv if word.endswith(f"={where}")), where)
        places = "" if given != where else " (outputs=…, data.root=…)"
        return f"{given}: {e.strerror}: move what is in the way, or name another place{places}"
    return first_line(e)


def _command() -> str:
    """Command that this process was started with."""
    return shell_command(*sys.orig_argv[1:])
