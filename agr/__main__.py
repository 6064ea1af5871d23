"""The program `agr`: every command by its name, from any folder."""

from __future__ import annotations

import os
import runpy
import sys
from importlib import import_module

from agr.jobs.output import tolerant_output
from agr.utils.errors import nearest
from agr.utils.program import DISTRIBUTION, __version__, other_program

# Each command, and what it does. Its module has its name, or the one in MODULES.
COMMANDS = {
    "run": "attack a source and score every target: one cell, or with -m a sweep",
    "check": "check this machine for a run: data, weights, memory, disk, time",
    "plan": "list the cells of a sweep: which are done, how long the others take",
    "status": "show which cells are done, begun, running, failed or missing",
    "score": "score saved images on further targets, or images of another program",
    "verify": "check all records again",
    "export": "write adversarial images as PNGs with their labels",
    "publish": "write finished cells as a data set, in the layout of the Hugging Face Hub",
    "submit": "make an entry of a leaderboard from finished cells",
    "review": "check an entry of a leaderboard, perhaps a stranger's",
    "site": "write entries of a leaderboard as a static site",
    "compare": "compare the cells of any sweep in one table",
    "tables": "render the paper's Tables 1-3",
    "leaderboard": "rank all attacks by mean transfer",
    "figures": "draw the figures",
    "claims": "judge a paper's claims",
    "report": "put all of it on one HTML page, and as Markdown and LaTeX",
    "attacks": "list the attacks: name, gradients, title, paper",
    "completion": "print a shell's completion: bash, zsh or fish",
}
MODULES = {"attacks": "list_attacks", "report": "write_report"}  # rooms have these names
ASKING = ("-h", "--help")
# Keys that are often typed as if they were commands.
KEYS = ("attack", "norm", "eps", "source", "targets", "suite", "experiment")
SHELLS = ("bash", "fish", "zsh")
COMPLETION = ("--shell-completion", "-sc")  # Hydra's flag
WITHOUT_CONFIGS = ("attacks", "completion", "export", "publish", "review", "site", "verify")
HELP = """\
agr: which attack, crafted on which network, fools which other networks, and by how much?

agr COMMAND [key=value ...]    agr COMMAND --help    agr --version

{}

agr key=value ... is agr run key=value ... For example:

    agr attack=agr norm=linf source=inc_v3
    agr compare --run attack=ifgsm,mifgsm,agr eps=4,8,16
    agr attacks 2025"""
COMPLETION_HELP = """\
Print the completion of commands, keys and configs for a shell: agr completion bash|fish|zsh

For example, in the file that the shell reads when it starts:

    eval "$(agr completion bash)"
    eval "$(agr completion zsh)"
    agr completion fish | source"""


def main(*before: str) -> None:
    """Run a command: the first word of the command line, which `before` comes before."""
    words = [*before, *sys.argv[1:]]
    name = words[0] if words else "--help"
    if name in COMPLETION and "COMP_LINE" in os.environ:
        _complete(words)
        return
    if not before and (line := other_program()):
        print(f"note: {line}", file=sys.stderr)
    if "--version" in words:
        _print(f"{DISTRIBUTION} {__version__}")
    elif name in ASKING:
        _print(HELP.format("\n".join(f"  {name:13}{line}" for name, line in COMMANDS.items())))
    elif name in COMPLETION:
        _ask_hydra(words)
    elif name == "completion":
        _print_completion(words[1:])
    elif name in COMMANDS:
        _start(name, words[1:])
    elif "=" in name or name.startswith(("-", "~")):
        _start("run", words)
    else:
        value = " ".join(words[1:2]) or "NAME"
        way = f"write {name}={value}" if name in KEYS else nearest(name, COMMANDS)
        _fail(f"{name} is not a command: {way}")


def _start(name: str, words: list[str]) -> None:
    """Run a command's module just as `python -m` would."""
    sys.argv = [name, *words]
    runpy.run_module(f"agr.{MODULES.get(name, name)}", run_name="__main__", alter_sys=True)


def _print(text: str) -> None:
    with tolerant_output():
        print(text)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _print_completion(words: list[str]) -> None:
    if {*ASKING} & {*words}:
        _print(COMPLETION_HELP)
        return
    if len(words) != 1 or words[0] not in SHELLS:
        _fail(f"agr {' '.join(['completion', *words])}: give one of {', '.join(SHELLS)}")
    if words[0] == "zsh":  # Hydra's is bash's
        _print("autoload -Uz bashcompinit && bashcompinit")
    _ask_hydra(["-sc", f"install={words[0]}"])


def _complete(words: list[str]) -> None:
    """Answer the shell: commands by us, what follows one by Hydra, which doesn't know of them."""
    program, _, typed = os.environ["COMP_LINE"].lstrip().partition(" ")
    name, space, rest = typed.lstrip().partition(" ")
    if not space:
        _print("\n".join(command for command in COMMANDS if command.startswith(name)))
    elif name in WITHOUT_CONFIGS:
        return
    elif name in COMMANDS:
        os.environ["COMP_LINE"] = f"{program} {rest}"
    _ask_hydra(words)


def _ask_hydra(words: list[str]) -> None:
    sys.argv = ["agr", *words]
    import_module("agr.run").main()


if __name__ == "__main__":
    main()
