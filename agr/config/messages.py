"""Errors of Hydra and OmegaConf in one line: the thing, the value and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException, OverrideParseException

from agr.config.distributions import offers
from agr.config.schema import GROUPS, Config, conf_dir
from agr.config.yaml_files import read_yaml, yaml_problem
from agr.utils.errors import ConfigError, bare, first_line, nearest
from agr.utils.program import as_called

# A parameter of an attack's part, such as attack.chain.momentum.decay
PART_KEY = re.compile(
    r"attack\.((start|loss|objective|ensemble|step|stop|library)\.|(views|surrogate|chain)\.\w+\.)"
)
IN_FILE = re.compile(r"In '(?P<file>[^']+)': (?:\w+ raised while composing config:\s*)?")
FULL_KEY = re.compile(r"full_key: (\S+)")
# Keys below which a file, or an override with +, can add names.
ADDED = re.compile(
    r"(suite\.(networks|groups)|suite\.networks\.[^.]+\.arguments|defenses|attack\.(views|chain))"
    r"\.[^.]+"
)
MISSING = re.compile(r"[Mm]issing mandatory value: ([\w.]+)")
WRONG_VALUE = re.compile(  # such as "eps=abc"
    r"Error merging override (\S+); Value .* (?:could not be converted to \w+|is not a valid bool)"
)
NO_FOLDER = re.compile(r"provider=hydra.searchpath.* path=(.+) is not available")
NO_SUCH_FILE = re.compile(r"In '(?P<file>[^']+)': Could not (?:load|find) '(?P<name>[^']+)'")
NOISE = ("HYDRA_FULL_ERROR", "full_key:", "object_type=", "reference_type=", "See https://")
RAISED = re.compile(r"\w+ raised while resolving interpolation: ")

ALL_ATTACKS = "agr attacks lists them"  # which has no other door
ALL_KEYS = as_called("python -m agr.run --cfg job shows all")

# Ends of messages, by a text that they contain.
WAYS_OUT = {
    "converted to Float": "give a number; sizes are on the 0-255 scale, 8 and not 8/255",
    "converted to Integer": "give a whole number, in digits",
    "not a valid bool": "give true or false",
    "not Optional": "leave it out, or give a value",
    "support deletion": "leave the word out; KEY=null empties what can be empty",
    "Interpolation key": "name a key that is there, or give the value itself",
    "Recursive interpolation": "values lead back to themselves: give one of them itself",
    "Unsupported interpolation": "of resolvers there are those of OmegaConf (oc.env, …) and agr's",
    "Environment variable": "set it, or write a default, ${oc.env:NAME,default}",
    "no viable alternative": "an interpolation is written ${key}",
    "subclass of str": "give a name",
    "Cannot assign": "its keys are written {key: value}, see conf/ for examples",
    "HydraConfig was not set": "hydra: says nothing here; oc.env reads the environment",
    "subclass of": "its keys are written {key: value}, see conf/ for examples",
    "converted to string": "give one name",
    "convert 'ListConfig' to string": "give one name",
    "Union[bool, int]": "give true, false or a number",
    "No config source": "folders of configs are named as hydra.searchpath=[folder] or --config-dir",
    "searchpath must be": "write hydra.searchpath=[folder]",
    "Exceeds the limit": "give a shorter number",
    "Unexpected type for root": "the key above it is empty: give it as a whole, {NAME: VALUE}",
    "Config group override": "files are chosen by name, as attack=agr",
    "Could not override": "conf/ has the groups that there are",
    "Could not delete": "there is nothing of that name to take away",
}


# Names of other programs, and ours.
MOMENTUM = "attack.chain.momentum.decay, of an attack that has momentum, as attack=mifgsm"
CALLED_ELSEWHERE = {
    **dict.fromkeys(["momentum", "decay", "mu"], MOMENTUM),
    **dict.fromkeys(["alpha", "step_size", "eps_step", "abs_stepsize"], "attack.size"),
    **dict.fromkeys(["num_steps", "nb_iter", "max_iter", "iterations", "n_iter", "iters"], "steps"),
    **dict.fromkeys(["nsteps", "max_steps", "step", "t"], "steps"),
    **dict.fromkeys(["epsilon", "eps_max", "budget"], "eps, on the 0-255 scale"),
    **dict.fromkeys(["model", "surrogate", "source_model", "arch"], "source"),
    **dict.fromkeys(["target", "target_model", "victim"], "targets=[…]"),
    **dict.fromkeys(["batch", "batch_size", "batchsize", "bs"], "slots"),
    **dict.fromkeys(["dataset", "data"], "suite, or data.root"),
    **dict.fromkeys(["num_images", "n", "num", "samples"], "n_images"),
    **dict.fromkeys(["gpu", "cuda"], "device=cuda:N"),
    **dict.fromkeys(["output", "output_dir", "out", "outdir", "results", "log_dir"], "outputs"),
    **dict.fromkeys(["save", "save_adv", "save_images", "save_dir"], "save_adversarials"),
    **dict.fromkeys(["random_seed", "manual_seed"], "seed"),
    **dict.fromkeys(["num_workers"], "workers"),
}


@contextmanager
def explained() -> Iterator[None]:
    """Raise one line as ConfigError for whatever Hydra or OmegaConf raises inside."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(explain(e)) from e


def explain(e: BaseException) -> str:
    """Return one line for an error of Hydra or OmegaConf, with the nearest known names."""
    cause = e.__cause__ or e
    for wrong in (e, cause):
        if isinstance(wrong, yaml.YAMLError):
            return yaml_problem(wrong)
    if isinstance(e, MissingConfigException):
        return _unknown_file(e)
    if isinstance(e, OverrideParseException):
        return (
            f"{e.override or 'an empty word'} cannot be read: write key=value, a list as [a,b] "
            f"without spaces, and quotes inside for other signs, 'key=\"~/a (b)\"' "
            f"({first_line(e)})"
        )
    if isinstance(e, RecursionError):
        return (
            "the config files lead in a circle, one naming another in its defaults and back, or "
            "one is nested hundreds of levels deep: look at those that the words name"
        )
    if found := MISSING.search(str(e)):
        missing = getattr(e, "full_key", None) if "." not in found[1] else None
        missing = missing or found[1]
        return f"{missing} is missing: a file of configs must say it, see conf/ for examples"
    named = FULL_KEY.search(str(cause))
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None) or (named and named[1])
    in_file = IN_FILE.match(str(e)) is not None
    if key and "not in" in str(cause):
        return _unknown_key(e, str(key))
    if str(cause).startswith("Ambiguous value"):
        return f"{first_line(cause)}: to sweep over its values put -m first; a list is [a,b]"
    if "ListConfig" in str(cause) and "to string" not in str(cause):
        if in_file or not key:
            text = (
                "a list stands where named keys are meant, or the other way round: a list is "
                "written [a,b], named keys {a: b}"
            )
        elif key == "targets":
            text = "targets is a list: write targets=[vgg16,vgg19]"
        else:
            lists, slots = f"a list is written {key}=[a,b]", f"named slots {key}={{a:b}}"
            text = f"{key} doesn't take this: {lists}, {slots}"
    else:
        text = _plain(e)
        way = next((way for words, way in WAYS_OUT.items() if words in text), None)
        value = WRONG_VALUE.match(text)
        if folder := NO_FOLDER.search(text):
            text = f"{folder[1]} is not a folder of configs: name one that is there"
        elif way:
            text = f"{value[1] if value else text}: {way}"
    return _with_place(e, key and str(key), text)


def _unknown_file(e: MissingConfigException) -> str:
    """Explain a missing file that an override or another file names."""
    inner = NO_SUCH_FILE.search(str(e))
    if inner and inner["file"] not in ("config", "hydra/config"):  # else a word names it
        return (
            f"{inner['file']}.yaml names {inner['name']} in its defaults, which is in no folder of "
            "configs: correct the name, or add its folder with --config-dir"
        )
    head, _, name = str(e.missing_cfg_file).partition("/")
    group, known = head, list(e.options or ())
    if head == "hydra":  # hydra/launcher/slurm
        inner_group, _, name = name.partition("/")
        group = f"{head}/{inner_group}"
    if group == "attack":  # Hydra lists the first level only
        for top in (Path(conf_dir()), *(offer.folder for offer in offers())):
            inner_files = Path(top, group).glob("*/*.yaml")
            known += [f"{path.parent.name}/{path.stem}" for path in inner_files]
    known = [k for k in known if not k.startswith(("_", "submitit_"))]  # pieces of others
    path = Path(name)
    if len(path.parts) > 1 and (path.suffix in (".yaml", ".yml") or path.parts[-2] == group):
        above = path.parent.parent if path.parent.name == group else path.parent
        return (
            f"{group}={name}: a file is chosen by its name, and its folder of configs is named "
            f"apart: {group}={path.stem} --config-dir={above}, with the file in "
            f"{above}/{group}/{path.stem}.yaml"
        )
    within = [k for k in known if k.rpartition("/")[2] == name]  # cfm: targeted/cfm
    more = ALL_ATTACKS if group == "attack" else None
    way = f"did you mean {' or '.join(within)}?" if within else nearest(name, known, more)
    return f"{group}={name} is unknown: {way}"


def _unknown_key(e: BaseException, key: str) -> str:
    part = PART_KEY.match(key)
    if part and not IN_FILE.match(str(e)):
        slot = part[0].rstrip(".")
        return (
            f"{key} is not in the attack's file: if {slot} has a part with that parameter "
            f"(docs/attacks.md lists them), +{key}=… adds it; if it is empty, give a part as a "
            f"whole, '{slot}={{_target_:…}}', one that replaces another with ++ before it"
        )
    if key.startswith("hydra.launcher."):
        known = getattr(e.__cause__ or e, "parent_node", ())
        way = nearest(key.rpartition(".")[2], map(str, known))
        return f"{key} is not a key of the launcher: {way}"
    way = moved(key) or nearest(key, _all_keys(Config), ALL_KEYS)
    if ADDED.fullmatch(key):
        way = f"correct the name, or add it as +{key}=…"
    return _with_place(e, None, f"{key} is not a key of the config: {way}")


def moved(key: str) -> str | None:
    """Return the hint for a key that stands elsewhere here, or has another name, or None."""
    if key.count(".") > 1:
        return None
    leaf = bare(key.rpartition(".")[2])
    own = next((own for name, own in CALLED_ELSEWHERE.items() if bare(name) == leaf), None)
    if not own:
        keys = [*_all_keys(Config), *_slots()]
        same = [k for k in keys if bare(k.rpartition(".")[2]) == leaf]
        same = [k for k in same if "." not in k] or same
        own = same[0] if len(same) == 1 and bare(same[0]) != bare(key) else None
    return own and f"here it is {own}"


def _slots() -> list[str]:
    """Return the keys of the slots that attacks have."""
    base = read_yaml(Path(conf_dir(), "attack", "_base.yaml"))
    return [f"attack.{group}.{name}" for group in GROUPS for name in base[group]]


def _with_place(e: BaseException, key: str | None, text: str) -> str:
    """Put the file and the key before `text`, unless it names them."""
    named = not key or key in text or "Error merging override" in text
    line = text if named else f"{key}: {text}"
    file = IN_FILE.match(str(e))
    return f"{file['file']}.yaml: {line}" if file else line


def _plain(e: BaseException) -> str:
    """Join the informative lines of an error and its cause."""
    text = f"{e}\n{e.__cause__ or ''}"
    text = RAISED.sub("", IN_FILE.sub("", text, count=1)).replace('"', "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not any(word in line for word in NOISE)]
    return "; ".join(dict.fromkeys(kept)) or type(e).__name__


def _all_keys(schema: Any, prefix: str = "") -> list[str]:
    keys = []
    for f in fields(schema):
        keys.append(prefix + f.name)
        inner: Any = f.default_factory
        if is_dataclass(inner):
            keys += _all_keys(inner, f"{prefix}{f.name}.")
    return keys
