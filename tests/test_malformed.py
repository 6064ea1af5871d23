"""Malformed input as a user meets it: a non-zero code and one line that says the way out.

One table of cases; each makes its files below a folder of its own and names the command. Commands
run in this process, and a handful, one of each kind, in a process of their own. Wrong options of
the command itself are in tests/test_run.py too.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import re
import runpy
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agr.config.schema import PACKAGE
from tests import standins

SCRIPTS = PACKAGE.parent / "scripts"
WEIGHTS = PACKAGE / "assets" / "demo" / "weights" / "vgg16.safetensors"
VAL = PACKAGE / "assets" / "demo" / "val"
CLASSES = 10
PATIENCE = 120  # s before a process of its own counts as hanging

ONE_CELL = ["source=vgg16", "targets=[vgg16]", "attack=ifgsm", "steps=1", "select=none"]
QUICK = [*ONE_CELL, "n_images=4", "slots=4", "threads=1", "progress=false", "outputs=outputs"]

Make = Callable[[Path], list[str]]  # in a folder: what it needs; the words of the command


class Case(NamedTuple):
    """A malformed input and what is said of it."""

    make: Make
    said: tuple[str, ...]
    program: str = "agr.run"


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run(words: Sequence[str | bytes], cwd: Path, program: str = "agr.run") -> Done:
    """Run the command in a process of its own, killed where it hangs."""
    start = ["-m", program] if program.startswith("agr.") else [str(SCRIPTS / program)]
    env = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    for name in ("IMAGENET_DIR", "HYDRA_FULL_ERROR"):  # which a command in this process sets
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, *start, *words],
        cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    return Done(done.returncode, *(t.decode(errors="replace") for t in (done.stdout, done.stderr)))


ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}


def run_here(
    words: Sequence[str | bytes], cwd: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> Done:
    """Run the command in this process."""
    file = f"{program.replace('.', '/')}.py" if program.startswith("agr.") else f"scripts/{program}"
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", [program, *map(os.fsdecode, words)])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(str(PACKAGE.parent / file), run_name="__main__")
        except SystemExit as e:
            code = int(e.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


# ---- what cases are made of ----------------------------------------------------------------------

WHOLE = "defaults: [_base]\nname: own\ntitle: Own\nstep: {_target_: agr.attacks.step.Plain}\n"


def own(group: str, text: str | bytes) -> Make:
    """A file of configs of one's own, chosen by its name."""

    def make(here: Path) -> list[str]:
        folder = here / "my" / group
        folder.mkdir(parents=True)
        (folder / "own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["--config-dir=my", *QUICK, f"{group}=own"]

    return make


def attack(text: str | bytes, *said: str) -> Case:
    return Case(own("attack", text), said)


NETWORK = f"{{architecture: vgg16, width: 0.125, classes: 10, size: 64, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], weights: {WEIGHTS}}}"  # noqa: E501
SUITE = {
    "name": "mine",
    "root": str(VAL),
    "labels": f"{VAL}.csv",
    "groups": "{a: {networks: [vgg16], geometry: {size: 64}}}",
    "networks": f"{{vgg16: {NETWORK}}}",
}


def suite(change: dict[str, str | None], *said: str) -> Case:
    lines = [f"{key}: {text}\n" for key, text in (SUITE | change).items() if text is not None]
    return Case(own("suite", "".join(lines)), said)


def network(old: str, new: str, *said: str) -> Case:
    assert old in NETWORK
    return suite({"networks": f"{{vgg16: {NETWORK.replace(old, new)}}}"}, *said)


def words(given: str | bytes, *said: str, first: bool = False) -> Case:
    """A word of the command line, given alone."""
    more = [given] if isinstance(given, bytes) else given.split(" ") if first else [given]
    return Case(lambda _: [*more, *QUICK] if first else [*QUICK, *more], said)  # type: ignore[list-item]


def program(name: str, given: Sequence[str], *said: str) -> Case:
    return Case(lambda _: list(given), said, name)


@cache
def photo(i: int) -> bytes:
    return standins.jpeg(standins.photo((80, 80), seed=i))


def name_of(i: int) -> str:
    return f"i{i}.JPEG"


def listed(here: Path, names: Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """A CSV of images, which take the classes in turn, as data.root."""
    lines = ["filename,label", *(f"{name},{i % CLASSES}" for i, name in enumerate(names)), *more]
    (here / "list.csv").write_text("\n".join(lines) + "\n")
    return [*QUICK, "data.root=list.csv", "data.labels=null"]


def images(put: Callable[[Path, int], object], *said: str) -> Case:
    """Three images, all of them as `put` makes them."""

    def make(here: Path) -> list[str]:
        for i in range(3):
            put(here / name_of(i), i)
        return listed(here, [name_of(i) for i in range(3)])

    return Case(make, said)


def of_bytes(content: bytes) -> Callable[[Path, int], object]:
    return lambda path, _: path.write_bytes(content)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def bomb() -> bytes:
    """A PNG of some kilobytes and 400 million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def place(put: Callable[[Path], object], name: str, *said: str) -> Case:
    """Something else where data.root is looked for."""

    def make(here: Path) -> list[str]:
        put(here / name)
        return [*QUICK, f"data.root={name}", "data.labels=null"]

    return Case(make, said)


def labels(put: Callable[[Path], object], name: str, *said: str) -> Case:
    """Images side by side, and something as data.labels."""

    def make(here: Path) -> list[str]:
        (here / "images").mkdir()
        for i in range(4):
            (here / "images" / standins.name_of(i + 1)).write_bytes(photo(i))
        put(here / name)
        return [*QUICK, "data.root=images", f"data.labels={name}"]

    return Case(make, said)


def text_labels(text: str, *said: str) -> Case:
    return labels(lambda path: path.write_text(text), "labels.txt", *said)


def csv(text: str | bytes, *said: str) -> Case:
    """A CSV beside three good images."""

    def make(here: Path) -> list[str]:
        for i in range(3):
            (here / name_of(i)).write_bytes(photo(i))
        (here / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return [*QUICK, "data.root=list.csv", "data.labels=null"]

    return Case(make, said)


def packed(members: Sequence[tuple[str, bytes, bytes]]) -> bytes:
    """A tar of (name, type, content); links lead to /etc/passwd."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as file:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def some_files(names: Sequence[str], content: bytes = b"") -> bytes:
    members = [(name, tarfile.REGTYPE, content or photo(i)) for i, name in enumerate(names)]
    return packed(members)


def of_size(field: bytes) -> bytes:
    """A tar whose first header claims another size."""
    block = bytearray(some_files(["a.JPEG"]))
    block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def archive(content: bytes | Callable[[], bytes], *said: str) -> Case:
    def make(here: Path) -> list[str]:
        (here / "images.tar").write_bytes(content if isinstance(content, bytes) else content())
        (here / "l.txt").write_text("a 0\nb 1\nc 2\n")
        return [*QUICK, "data.root=images.tar", "data.labels=l.txt"]

    return Case(make, said)


def devkit(content: bytes, *said: str) -> Case:
    return labels(lambda path: path.write_bytes(content), "devkit.tgz", *said)


def meta(content: bytes, *said: str) -> Case:
    def put(folder: Path) -> None:
        folder.mkdir()
        (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n4\n")
        (folder / "meta.mat").write_bytes(content)

    return labels(put, "kit", *said)


class Marks:
    """Makes a file where a pickle of it is loaded: the folder that the command runs in."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("was_run", "w")


def torch_file(what: object) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(what, buffer)
    return buffer.getvalue()


def changed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """The demo's weights of VGG16, changed."""
    from safetensors.torch import load, save

    return save(change(load(WEIGHTS.read_bytes())))


def slim(content: bytes | Callable[[], bytes], *said: str) -> Case:
    """The weights of a network of the suite, which is asked to be right about the images."""

    def make(here: Path) -> list[str]:
        (here / "w.safetensors").write_bytes(content if isinstance(content, bytes) else content())
        key = "suite.networks.vgg16"
        return [*QUICK, f"{key}.weights=w.safetensors", f"{key}.sha256=null", "select=source"]

    return Case(make, said)


def checkpoint(content: bytes | Callable[[], bytes], name: str, *said: str) -> Case:
    """A file of one's own for a network of timm."""

    def make(here: Path) -> list[str]:
        (here / name).write_bytes(content if isinstance(content, bytes) else content())
        listed(here, [])
        return [*QUICK, f"source=resnet18:{name}", "targets=null", "suite.classes=1000"]

    return Case(make, said)


def weights(word: str, *said: str, put: Callable[[Path], object] = lambda _: None) -> Case:
    def make(here: Path) -> list[str]:
        put(here)
        return [*QUICK, f"suite.networks.vgg16.weights={word}", "suite.networks.vgg16.sha256=null"]

    return Case(make, said)


SAVING = [*QUICK, "save_adversarials=true", "memory_format=try"]  # which writes tuning.json
OF_TABLES = [w for w in QUICK if w.partition("=")[0] not in ("slots", "threads", "progress")]
FINISHED = Path("finished")  # beside the folders of the cases: outputs of a run of SAVING


def records(
    change: Callable[[Path], object], *said: str, given: Sequence[str] = SAVING, **more: Any
) -> Case:
    """A finished cell, of which something is changed; `change` gets the folder of the outputs."""

    def make(here: Path) -> list[str]:
        shutil.copytree(here.parent / FINISHED / "outputs", here / "outputs")
        change(here / "outputs")
        return list(given)

    return Case(make, said, **more)


def run_file(content: str | bytes) -> Callable[[Path], object]:
    def change(outputs: Path) -> None:
        content_bytes = content if isinstance(content, bytes) else content.encode()
        next(outputs.glob("demo/*/_about/run.json")).write_bytes(content_bytes)

    return change


def of_schema(version: object) -> Callable[[Path], object]:
    def change(outputs: Path) -> None:
        (path,) = outputs.glob("demo/*/_about/run.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))

    return change


def replaced(pattern: str, put: Callable[[Path], object]) -> Callable[[Path], object]:
    """The file of a pattern, replaced by what `put` makes in its place."""

    def change(outputs: Path) -> None:
        (path,) = outputs.glob(pattern)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        put(path)

    return change


# ---- the table -----------------------------------------------------------------------------------

HYDRA = "# @package _global_\nhydra: "

CONFIGS = {
    "YAML that ends too soon": attack("name: [own\n", "own.yaml line 2", "mend it"),
    "YAML with a tab": attack("name:\tx\n\tsteps: 1\n", "own.yaml line 1", "'\\t'"),
    "YAML with a key twice": attack(f"{WHOLE}name: b\n", "own.yaml line 5", "duplicate key name"),
    "YAML of bytes": attack(b"\x00\x01\xff", "own.yaml is not text in UTF-8"),
    "YAML with a NUL": attack("name: a\0b\n", "own.yaml is not YAML", "special characters"),
    "YAML in UTF-16": attack(WHOLE.encode("utf-16"), "own.yaml is not text in UTF-8", "save it"),
    "YAML of two documents": attack(f"{WHOLE}---\n{WHOLE}", "own.yaml line 5", "document"),
    "YAML with a Python tag": attack(
        f"{WHOLE}start: !!python/object/apply:os.system ['touch was_run']\n",
        "own.yaml line 5",
        "tag",
    ),
    "YAML nested too deep": attack(f"{WHOLE}start: {'[' * 900}{']' * 900}\n", "levels deep"),
    "an alias inside of itself": attack("name: &a [*a]\n", "hundreds of levels deep"),
    "a list for an attack": attack("- a\n- b\n", "attack/own.yaml: ", "list is not"),
    "a word for an attack": attack("hello\n", "attack/own.yaml: attack.hello is not a key"),
    "an empty attack": attack("", "the attack has no name"),
    "a number with 5,000 digits": attack(
        f"{WHOLE}steps: {'9' * 5000}\n", "5000 digits", "shorter number"
    ),
    "a slot that isn't": attack(
        f"{WHOLE}chian: {{}}\n", "attack.chian", "did you mean attack.chain"
    ),
    "a slot with a list": attack(f"{WHOLE}chain: [a]\n", "attack/own.yaml: a list stands where"),
    "a name that is a list": attack(
        WHOLE.replace("own\n", "[a]\n", 1), "attack.name: ", "one name"
    ),
    "a name with a line break": attack(
        WHOLE.replace("own\n", '"o\\nn"\n', 1), "attack.name=o\\nn has a line break"
    ),
    "a title that colours": attack(
        WHOLE.replace("Own\n", '"\\e[31mO"\n', 1), "attack.title=\\x1b[31mO has a line break"
    ),
    "steps in words": attack(f"{WHOLE}steps: many\n", "attack.steps: Value 'many'", "whole number"),
    "a step of infinity": attack(f"{WHOLE}size: 1e400\n", "attack.size=inf is not a step size"),
    "a part that isn't": attack(
        WHOLE.replace("Plain", "Plane"), "_target_=agr.attacks.step.Plane", "did you mean Plain"
    ),
    "a parameter that isn't": attack(
        WHOLE.replace("Plain", "Plain, phi: 3"), "attack.step: ", "'phi'", "docs/attacks.md"
    ),
    "a part that is a number": attack(
        WHOLE.replace("agr.attacks.step.Plain", "3"), "attack.step has _target_=3", "write one"
    ),
    "a part of the system": attack(
        WHOLE.replace("agr.attacks.step.Plain", "os.system"),
        "attack.step has _target_=os.system",
        "allow=[os]",
    ),
    "defaults in a circle": attack("defaults: [own]\n", "the config files lead in a circle"),
    "defaults that aren't": attack(
        WHOLE.replace("_base", "nowhere"), "attack/own.yaml names attack/nowhere in its defaults"
    ),
    "a value from nowhere": attack(f"{WHOLE}steps: ${{nope}}\n", "attack.steps: ", "'nope'"),
    "a value from itself": attack(
        f"{WHOLE}steps: ${{attack.size}}\nsize: ${{attack.steps}}\n", "Recursive interpolation"
    ),
    "a value from no variable": attack(
        f"{WHOLE}steps: ${{oc.env:NOPE}}\n", "attack.steps: ", "'NOPE' not found: set it"
    ),
    "a resolver that isn't": attack(f"{WHOLE}steps: ${{no:1}}\n", "interpolation type no"),
    "a suite without a name": suite({"name": None}, "suite.name is missing"),
    "a suite without groups": suite({"groups": None}, "suite.groups is missing"),
    "a suite without networks": suite({"networks": None}, "suite.networks is missing"),
    "a suite that climbs": suite({"name": "../../evil"}, "suite.name=../../evil is the name of a"),
    "a suite at the root": suite({"name": "/tmp/evil"}, "suite.name=/tmp/evil is the name of a"),
    "a suite with a line break": suite({"name": '"a\\nb"'}, "suite.name=a\\nb has a line break"),
    "a suite with a long name": suite({"name": "n" * 5000}, "suite.name=nnn", "1 to 100 letters"),
    "a suite with a key more": suite({"nets": "3"}, "suite.nets is not a key"),
    "a suite of -3 images": suite({"images": "-3"}, "suite.images=-3 is too small"),
    "groups as a list": suite({"groups": "[a]"}, "suite/own.yaml: ", "list is not"),
    "a group without a size": suite(
        {"groups": "{a: {networks: [vgg16], geometry: {}}}"},
        "suite.groups.a.geometry.size is missing",
    ),
    "a group of a giant's size": suite(
        {"groups": "{a: {networks: [vgg16], geometry: {size: 1000000}}}"}, "group a: ", "16384 px"
    ),
    "an order of classes that isn't": suite({"synsets": "wordnet"}, "suite.synsets=wordnet"),
    "a network without a mean": network("mean: [0.5, 0.5, 0.5],", "", "vgg16.mean is missing"),
    "a network with NaN": network("std: [0.5,", "std: [.nan,", "network vgg16: ", "give three"),
    "a network of a big size": network("size: 64", "size: big", "vgg16.size: ", "whole number"),
    "a network with other weights": network(
        "width: 0.125",
        "arguments: {checkpoint_path: x.pth}",
        "arguments.checkpoint_path",
        "weights",
    ),
    "a network from the hub": network(
        "architecture: vgg16",
        "architecture: 'hf-hub:a/b'",
        "network vgg16: timm has no architecture",
    ),
    "a callback of Hydra's": Case(
        own("experiment", f"{HYDRA}{{callbacks: {{x: {{_target_: os.getcwd}}}}}}\n"),
        ("hydra.callbacks.x stands in a config file",),
    ),
    "a sweep that allows itself": Case(
        own("experiment", f"{HYDRA}{{mode: MULTIRUN, sweeper: {{params: {{allow: '[os]'}}}}}}\n"),
        ("hydra.sweeper.params has allow",),
    ),
}

VALUES = {
    "images without end": words("n_images=1e30", "n_images=1e30", "whole number"),
    "a power of steps": words("steps=10**12", "steps=10**12", "whole number"),
    "a billion steps": words("steps=1000000000", "steps=1000000000 is too large: give 100000"),
    "a billion slots": words("slots=1000000000", "slots=1000000000 is too large"),
    "threads without end": words("threads=99999999999999999999", "is too large: give 4096"),
    "a seed beyond 64 bits": words(f"seed=-{'9' * 30}", "is too small: give -9223372036854775808"),
    "a billionth shard": words("shard=0/10**9", "shard=0/10**9 is not a shard: write i/k"),
    "a shard below none": words("shard=-1/3", "shard=-1/3 is not a shard"),
    "a shard with a sign": words("shard=1_0/20", "shard=1_0/20 is not a shard"),
    "other digits": words("eps=٣", "eps=٣ cannot be read"),
    "an empty number": words("seed=", "seed=: give a whole number"),
    "a number in letters": words(
        "eps=abc", "error: eps=abc: give a number; sizes are on the 0-255"
    ),
    "a norm that isn't": words("norm=l1", "norm=l1 is unknown: known: l2, linf"),
    "an attack without a name": words("attack=", "attack= is unknown: agr attacks lists them"),
    "timm's name, nearly": words(
        "source=inceptionv3", "source=inceptionv3 is unknown: did you mean inc_v3?"
    ),
    "a title": words("targets=[Res152]", "target Res152 is unknown: did you mean res152?"),
    "a time that is none": words("part_seconds=nan", "part_seconds=nan is not a time"),
    "a budget of infinity": words("eps=1e400", "eps=inf is not a budget"),
    "a key from nowhere": words("eps=${nope}", "eps: Interpolation key 'nope' not found"),
    "a key from itself": words("eps=${eps}", "eps: Recursive interpolation"),
    "outputs with a line break": words("outputs='a\nb'", "outputs=a\\nb has a line break"),
    "outputs too long": words(f"outputs={'n' * 5000}", "outputs=nnn", "1 to 255 letters"),
    "images with a long name": words(
        f"data.root={'n' * 5000}", "data.root=nnn", " … ", "is not there"
    ),
    "a network that colours": words("source='\x1b[31mred'", "source=\\x1b[31mred is unknown"),
    "bytes that are no text": words(b"data.root=\xff", "data.root=\\udcff cannot be read"),
    "a word without a key": words("=3", "=3 chooses no file"),
    "an empty word": words("", "an empty word cannot be read"),
    "a word of braces": words("{}", "{} cannot be read"),
    "no norm": words("norm=null", "norm=null chooses no file: write norm=linf or l2"),
    "a key taken away": words("~eps", "eps is missing: leave ~eps out"),
    "a list of lists": words("targets=[[vgg16]]", "targets=[['vgg16']]: give a list of names"),
    "a package that is none": words("allow=['../x']", "allow=[../x] is not a package"),
    "a device that computes nothing": words("device=meta", "device=meta is unknown: give auto"),
    "someone's home": words("data.root='~nobody_here/x'", "~nobody_here/x has no home folder"),
    "a file outside of its group": words("attack=../suite/demo", "attack/../suite/demo.yaml"),
    "an experiment outside": words(
        "experiment=../../../etc/passwd", "experiment=../../../etc/passwd"
    ),
    "a flag that isn't": words("-x", "-x is not a flag", first=True),
    "a flag that unpickles": words(
        "--experimental-rerun=a.pickle", "--experimental-rerun is not for agr", first=True
    ),
    "another main config": words("--config-name=x", "--config-name is not for agr", first=True),
    "another folder of configs": words("-cp x", "--config-path is not for agr", first=True),
    "configs that aren't there": words(
        "--config-dir=/no", "--config-dir=/no is not a folder", first=True
    ),
    "configs without a place": words("--config-dir=", "--config-dir= is not a folder", first=True),
    "a config to show that isn't": words("--cfg nope", "--cfg=nope: give one of job", first=True),
    "a sweep and none": words("-m -r", "-m and -r", first=True),
    "a sweep without end": words("-m eps=range(0,1e9)", "1,000,000,000 cells", first=True),
    "a sweep over nothing": words("-m eps=glob(*)", "means no cell", first=True),
    "a launcher that isn't": words("hydra/launcher=nope", "hydra/launcher=nope is unknown"),
    "a package of no configs": words(
        "hydra.searchpath=[pkg://nope]", "nope is not a folder of configs"
    ),
    "a callback in words": words(
        "+hydra.callbacks.x._target_=os.getcwd", "has no effect on a run", "leave it out"
    ),
    "a score of nothing": program("agr.score", ["outputs=."], "give targets=[name,...]"),
    "a score of what isn't there": program(
        "agr.score", ["outputs=nowhere", "targets=[vgg16]"], "outputs=nowhere is not a folder"
    ),
    "a score of a strange folder": program(
        "agr.score", ["outputs=.", "targets=[vgg16]"], "outputs=. has no saved adversarial images"
    ),
    "a score that can't be read": program("agr.score", ["targets=[vgg"], "targets=[vgg"),
    "a plan of a wrong budget": program("agr.plan", ["eps=-1"], "eps=-1.0 is not a budget"),
    "a check of a wrong budget": program("agr.check", ["eps=-1"], "eps=-1.0 is not a budget"),
    "a status of a wrong budget": program("agr.status", ["eps=-1"], "eps=-1.0 is not a budget"),
    "a check of records that aren't": program(
        "agr.verify", ["outputs=nowhere"], "outputs=nowhere is not a folder"
    ),
    "tables of a wrong budget": program("make_tables.py", ["eps=-1"], "eps=-1.0 is not a budget"),
    "tables of no experiment": program("make_tables.py", ["experiment=papr"], "did you mean paper"),
    "a leaderboard of no attack": program(
        "make_leaderboard.py", ["attack=nope,agr"], "attack=nope is unknown"
    ),
}

UNREADABLE = "no image of list.csv can be read (3 tried; "

IMAGES = {
    "images cut off": images(
        lambda path, i: path.write_bytes(photo(i)[:900]), UNREADABLE, "image file is truncated"
    ),
    "images of no bytes": images(of_bytes(b""), UNREADABLE, "it is empty"),
    "images of text": images(of_bytes(b"hello\n"), UNREADABLE, "it is not an image"),
    "images of too many pixels": images(of_bytes(bomb()), UNREADABLE, "400000000 pixels"),
    "images of 20 GB": images(lambda path, _: sparse(path, 20 << 30), UNREADABLE, "too many"),
    "images that are folders": images(
        lambda path, _: path.mkdir(), UNREADABLE, "not a regular file"
    ),
    "images that are pipes": images(
        lambda path, _: os.mkfifo(path), UNREADABLE, "not a regular file"
    ),
    "images that are devices": images(
        lambda path, _: path.symlink_to("/dev/zero"), UNREADABLE, "not a regular file"
    ),
    "images that lead in circles": images(
        lambda path, _: path.symlink_to(path.name),
        UNREADABLE,
        "symbolic links",
    ),
    "images of another hash": csv(
        f"filename,label,sha256\ni0.JPEG,0,{'0' * 64}\n", "(1 tried; i0.JPEG: its hash is not"
    ),
    "a folder of pipes": place(
        lambda path: [
            (
                (path / f"n0000000{i}").mkdir(parents=True),
                os.mkfifo(path / f"n0000000{i}" / "a.png"),
            )
            for i in range(CLASSES)
        ],
        "val",
        "data.root=val: there is no image in val",
    ),
    "a data set of text": place(lambda path: path.write_text("hello"), "x", "x is not a tar"),
    "a data set that is a pipe": place(os.mkfifo, "x", "data.root=x is a pipe"),
    "a list that is a pipe": place(os.mkfifo, "x.csv", "x.csv is a pipe: give a file"),
    "a data set without end": words("data.root=/dev/zero", "data.root=/dev/zero is a device"),
    "a list without end": place(
        lambda path: path.symlink_to("/dev/zero"), "x.csv", "x.csv is a device: give a file"
    ),
    "a list that is a folder": place(lambda path: path.mkdir(), "x.csv", "x.csv has no images"),
    "a list of 8 GB": place(lambda path: sparse(path, 8 << 30), "x.csv", "8,589,934,592 bytes"),
    "a data set in a circle": place(
        lambda path: path.symlink_to("x"), "x", "data.root=x is not there"
    ),
    "an empty data set": place(lambda path: path.mkdir(), "x", "data.root=x has no images"),
}

ARCHIVES = {
    "a tar cut off": archive(some_files(["a.JPEG", "b.JPEG"])[:2000], "images.tar is cut off"),
    "a tar of nothing": archive(b"", "images.tar is cut off at byte 0"),
    "a tar of links": archive(
        packed(
            [
                ("a.JPEG", tarfile.SYMTYPE, b""),
                ("b.JPEG", tarfile.LNKTYPE, b""),
                ("c.JPEG", tarfile.CHRTYPE, b""),
                ("d.JPEG", tarfile.FIFOTYPE, b""),
            ]
        ),
        "there is no image in images.tar",
    ),
    "a tar with a name twice": archive(some_files(["a.JPEG", "x/a.JPEG"]), "names a twice"),
    "a tar of names that aren't": archive(
        some_files(["a.JPEG", "x/\x1b[31m.JPEG"]), "'\\x1b[31m' needs another name"
    ),
    "a tar with a size below zero": archive(of_size(b"\xff" * 11 + b"\0"), "is damaged at byte 0"),
    "a tar with a giant's size": archive(of_size(b"\x80" + b"\x7f" * 11), "images.tar is cut off"),
    "a tar of a sparse file": archive(
        packed([("a.JPEG", tarfile.GNUTYPE_SPARSE, b"")]), "sparse member 'a.JPEG'"
    ),
    "a tar with a garbled header": archive(b"\xff" * 1024, "images.tar is damaged at byte 0"),
    "a tar that is a zip": archive(
        lambda: zipped({"a.JPEG": photo(0)}), "images.tar is damaged at byte 0"
    ),
    "a tar that is compressed": archive(
        gzip.compress(some_files(["a.JPEG"])), "is compressed (gzip): unpack it to a .tar"
    ),
    "a tar of text": archive(
        some_files(["a.JPEG", "b.JPEG", "c.JPEG"], b"hello"),
        "can be read (3 tried; ",
        "it is not an image",
    ),
    "a devkit that swells": devkit(gzip.compress(bytes(200 << 20), 1), "too much for a devkit"),
    "a devkit of garbage": devkit(b"\x1f\x8b" + bytes(range(200)), "devkit.tgz cannot be unpacked"),
    "a devkit cut off": devkit(gzip.compress(os.urandom(5000))[:900], "devkit.tgz is cut off"),
    "a devkit of something else": devkit(
        gzip.compress(some_files(["a"])), "has no ILSVRC2012_validation"
    ),
    "a devkit of 8 GB": labels(
        lambda path: sparse(path, 8 << 30), "devkit.tgz", "8,589,934,592 bytes"
    ),
    "meta.mat of garbage": meta(bytes(range(256)) * 12, "meta.mat cannot be read", "copy it again"),
    "meta.mat of nothing": meta(b"", "meta.mat cannot be read", "copy it again"),
}

MANIFESTS = {
    "a CSV of nothing": csv("", "list.csv has no column filename: its first line must name"),
    "a CSV of its header": csv("filename,label\n", "list.csv names no image"),
    "a CSV without a header": csv("i0.JPEG,0\n", "list.csv has no column filename"),
    "a CSV of other columns": csv("name,class\ni0.JPEG,0\n", "list.csv has no column filename"),
    "a CSV with a column twice": csv(
        "filename,label,label\ni0.JPEG,0,1\n", "two columns for the label, label and label"
    ),
    "a CSV with fields too many": csv("filename,label\ni0.JPEG,0,7\n", "line 2: ", "more fields"),
    "a CSV with fields too few": csv("filename,label\ni0.JPEG\n", "line 2: 'i0.JPEG', label ''"),
    "a CSV in UTF-16": csv(
        "filename,label\n".encode("utf-16"), "list.csv is not a text file", "as UTF-8"
    ),
    "a CSV in Latin 1": csv(
        "filename,label\nü.JPEG,0\n".encode("latin-1"), "list.csv is not a text file"
    ),
    "a CSV with a NUL": csv("filename,label\ni\0.JPEG,0\n", "'i\\x00' needs another name"),
    "a CSV with an open quote": csv('filename,label\n"i0.JPEG,0\n', "list.csv line 2: "),
    "a CSV with a line break": csv('filename,label\n"i\n0.JPEG",0\n', "'i\\n0' needs another name"),
    "a CSV with a giant's field": csv(f"filename,label\n{'a' * 200000},0\n", "field larger than"),
    "a CSV with a giant's header": csv(f"{'a' * 200000},label\n", "list.csv "),
    "a CSV of a million columns": csv(f"filename{',x' * 1000000}\n", "has no column label"),
    "a class beyond all": csv("filename,label\ni0.JPEG,12\n", "i0 has label 12", "0 to 9"),
    "classes from one on": csv("filename,label\ni0.JPEG,10\ni1.JPEG,1\n", "count from 1"),
    "a class below zero": csv("filename,label\ni0.JPEG,-1\n", "line 2: 'i0.JPEG', label '-1'"),
    "a class with a point": csv("filename,label\ni0.JPEG,1.5\n", "line 2: 'i0.JPEG', label '1.5'"),
    "a class in other digits": csv("filename,label\ni0.JPEG,٣\n", "line 2: 'i0.JPEG', label '٣'"),
    "a class of 5,000 digits": csv(f"filename,label\ni0.JPEG,{'9' * 5000}\n", "line 2", " … "),
    "a name twice": csv("filename,label\ni0.JPEG,0\ni0.png,1\n", "list.csv names i0 twice"),
    "a name that climbs": csv("filename,label\n..,0\n", "'..' needs another name"),
    "a name of the system": csv(
        "filename,label\n/etc/shadow.JPEG,1\n", "/etc/shadow.JPEG is not in ."
    ),
    "a name that runs backwards": csv(
        "filename,label\n\u202ei0.JPEG,1\n", "'\\u202ei0' needs another"
    ),
    "a name for a terminal": csv("filename,label\n\x1b[2J.JPEG,1\n", "'\\x1b[2J' needs another"),
    "a name too long": csv(
        f"filename,label\n{'n' * 300}.JPEG,1\n", "is longer than 200: rename it"
    ),
    "a hash that is none": csv("filename,label,sha256\ni0.JPEG,0,zz\n", "'zz' is not a sha256"),
    "a target that is the class": csv("filename,label,target\ni0.JPEG,0,0\n", "its own label 0"),
    "labels of prose": text_labels("To be, or not\n", "line 1: ", "give an image and its class"),
    "labels of some images": text_labels(
        "ILSVRC2012_val_00000001 3\n", "has no label for", "3 such"
    ),
    "labels that say it twice": text_labels(
        "a 1\na.png 2\n", "labels.txt line 2 names a a second time"
    ),
    "labels without a class": text_labels("a 1\nb\n", "labels.txt line 2: 'b', label ''"),
    "a solution without columns": text_labels("ImageId,PredictionString2\na,n01440764\n", "column"),
    "labels of too few synsets": text_labels("a n01440764\nb n01443537\n", "there are 2 synsets"),
    "labels that are a pipe": labels(os.mkfifo, "l.txt", "data.labels=l.txt is a pipe"),
    "labels of half a devkit": labels(
        lambda path: (path.mkdir(), (path / "meta.mat").touch()),
        "kit",
        "there is no ILSVRC2012_validation",
    ),
}

NOT_A_STATE = "holds no weights of resnet18: "

CHECKPOINTS = {
    "weights of nothing": slim(b"", "w.safetensors holds no weights of vgg16", "header too small"),
    "weights cut off": slim(WEIGHTS.read_bytes()[:5000], "w.safetensors holds no weights of vgg16"),
    "weights with a giant's header": slim(struct.pack("<Q", 1 << 62) + b"{}", "header too large"),
    "weights with a garbled header": slim(struct.pack("<Q", 10) + b"{not json}", "JSON in header"),
    "weights of other shapes": slim(
        lambda: changed(lambda w: {k: v[:1].clone() for k, v in w.items()}), "size mismatch"
    ),
    "weights that lack some": slim(
        lambda: changed(lambda w: dict(list(w.items())[2:])), "Missing key(s) in state_dict"
    ),
    "weights that aren't numbers": slim(
        lambda: changed(lambda w: {k: v * float("nan") for k, v in w.items()}),
        "vgg16 never gave a finite answer (NaN)",
        "give other weights",
    ),
    "a pickle of code": checkpoint(
        lambda: torch_file({"state_dict": Marks()}),
        "w.pth",
        NOT_A_STATE,
        "could run code",
        "safetensors",
    ),
    "a bare pickle of code": checkpoint(
        lambda: pickle.dumps({"a": Marks()}), "w.bin", NOT_A_STATE, "could run code"
    ),
    "a checkpoint of a list": checkpoint(
        lambda: torch_file([1]), "w.pth", NOT_A_STATE, "not a state_dict"
    ),
    "a checkpoint of words": checkpoint(
        lambda: torch_file({"conv1.weight": "x"}), "w.pth", NOT_A_STATE, "other things in it"
    ),
    "a checkpoint of whole numbers": checkpoint(
        lambda: whole_numbers(), "w.pth", NOT_A_STATE, "is of torch.int64"
    ),
    "a checkpoint of nothing": checkpoint(b"", "w.pt", NOT_A_STATE, "not a state_dict"),
    "a checkpoint of text": checkpoint(b"hello\n", "w.bin", NOT_A_STATE),
    "a checkpoint of a zip": checkpoint(b"PK\3\4" + bytes(300), "w.pth", NOT_A_STATE),
    "a checkpoint of another kind": checkpoint(b"x", "w.npz", "w.npz is not a weight file", ".pth"),
    "weights that are a folder": weights(
        "w.safetensors",
        "there is no weight file w.safetensors",
        put=lambda here: (here / "w.safetensors").mkdir(),
    ),
    "weights that are a pipe": weights(
        "w.safetensors",
        "there is no weight file w.safetensors",
        put=lambda here: os.mkfifo(here / "w.safetensors"),
    ),
    "weights without end": weights("/dev/zero", "there is no weight file /dev/zero"),
    "weights in someone's home": weights("'~nobody_here/w.pth'", "has no home folder"),
    "weights of a hub that climbs": weights("hub:../x", "../x is not a hub id: write owner/name"),
    "weights from anywhere": weights("https://x.y/z.pth", "its weights are not on the hub"),
    "weights of another hash": words("suite.networks.vgg16.sha256=00ff", "the suite says 00ff"),
    "a slim copy with arguments": words(
        "+suite.networks.vgg16.arguments.depth=3",
        "network vgg16: a slim copy (width) takes no arguments",
    ),
}

DAMAGED = "run.json is damaged, or was edited: restore it, or move"
IN_THE_WAY = "move what is in the way"
ROWS, IMAGES_SAVED = "demo/*/rows-*.parquet", "demo/*/_adversarials/*.parquet"
SCORING = ["outputs=outputs", "targets=[vgg19]"]
score = partial(records, given=SCORING, program="agr.score")
tables = partial(records, given=OF_TABLES, program="make_tables.py")

RECORDS = {
    "run.json of text": records(run_file("hello"), DAMAGED),
    "run.json of a list": records(run_file("[1]"), DAMAGED),
    "run.json of nothing": records(run_file(""), DAMAGED),
    "run.json of bytes": records(run_file(b"\xff\xfe"), DAMAGED),
    "run.json cut off": records(run_file('{"schema_version": 4, '), DAMAGED),
    "run.json without a schema": records(run_file("{}"), DAMAGED),
    "run.json nested too deep": records(run_file("[" * 100_000), DAMAGED),
    "run.json of an older schema": records(
        of_schema(2), "run.json has schema 2, this program writes"
    ),
    "run.json of a newer schema": records(
        of_schema(99), "run.json has schema 99", "another outputs"
    ),
    "run.json that is a folder": records(replaced("demo/*/_about/run.json", Path.mkdir), DAMAGED),
    "run.json that is a pipe": records(replaced("demo/*/_about/run.json", os.mkfifo), DAMAGED),
    "run.json that is gone": records(
        replaced("demo/*/_about/run.json", lambda _: None), "has rows but no run.json", "restore it"
    ),
    "a score of a damaged run.json": score(run_file("[1]"), DAMAGED),
    "a score of an older schema": score(of_schema(2), "run.json has schema 2"),
    "a score of damaged images": score(
        replaced(IMAGES_SAVED, lambda p: p.write_bytes(b"x")), "is damaged: run the cell again"
    ),
    "a score of images that are a folder": score(
        replaced(IMAGES_SAVED, Path.mkdir), "is damaged: run the cell again"
    ),
    "a score of images that are a pipe": score(
        replaced(IMAGES_SAVED, os.mkfifo), "is damaged: run the cell again"
    ),
    "tables of a damaged run.json": tables(run_file("[1]"), DAMAGED),
    "tables of a damaged part": tables(
        replaced(ROWS, lambda p: p.write_bytes(b"x")), "is damaged: run the cell again"
    ),
    "tables of a part that is a pipe": tables(
        replaced(ROWS, os.mkfifo), "is damaged: run the cell again"
    ),
    "a cell that is a file": records(replaced("demo/ifgsm*", Path.touch), IN_THE_WAY),
    "outputs that are a file": records(lambda o: (shutil.rmtree(o), o.touch()), IN_THE_WAY),
    "trials that are a folder": records(
        lambda o: (
            replaced("demo/tuning.json", Path.mkdir)(o),
            replaced("demo/ifgsm*", lambda _: None)(o),
        ),
        "tuning.json: ",
        IN_THE_WAY,
    ),
}

TABLE = CONFIGS | VALUES | IMAGES | ARCHIVES | MANIFESTS | CHECKPOINTS | RECORDS


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def whole_numbers() -> bytes:
    import timm

    return torch_file({k: v.long() for k, v in timm.create_model("resnet18").state_dict().items()})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a finished cell."""
    folder = tmp_path_factory.mktemp("finished")
    done = run(SAVING, folder)
    assert done.code == 0, done.err
    return folder


# One of each kind as a user starts it.
AS_PROCESSES = (
    *("YAML that ends too soon", "a callback of Hydra's", "images of too many pixels"),
    *("a tar cut off", "a class of 5,000 digits", "run.json cut off", "tables of a wrong budget"),
    "a score of nothing",
)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "own_process"), [
    *((name, False) for name in TABLE), *((name, True) for name in AS_PROCESSES)
])  # fmt: skip
def test_malformed_input_is_one_line(
    name: str,
    own_process: bool,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name in RECORDS:
        (tmp_path / FINISHED).symlink_to(request.getfixturevalue("finished"))
    here = tmp_path / "here"
    here.mkdir()
    case = TABLE[name]
    given = case.make(here)
    before = everything(tmp_path)
    if own_process:
        done = run(given, here, case.program)
    else:
        done = run_here(given, here, case.program, monkeypatch)
    assert "Traceback" not in done.out + done.err, done.err
    assert done.code == 2, (done.code, done.out, done.err)
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    for word in case.said:
        assert word in done.err
    assert done.err.removesuffix("\n").isprintable()
    assert not left_over(everything(tmp_path) - before)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def left_over(new: set[str]) -> list[str]:
    """What a failed command may not leave: a part of a cell, a draft, a lock; anything outside."""
    suite = r"here/outputs(/(demo|mine|sweep)(/(clean|data|tuning\.json).*)?)?"
    noted = r"here/outputs/\w+/[^/]*(/_about(/failed-0of1\.json)?)?"  # for agr.status
    inside = re.compile(f"{suite}|{noted}")
    unfinished = (".draft", ".lock")
    return [n for n in new if not inside.fullmatch(n) or n.endswith(unfinished)]
