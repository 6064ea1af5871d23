"""The typed config, its units, and the identity of a cell.

A *cell* is one (attack, norm, eps, source) with everything that decides its numbers: what one run
computes and one folder of records holds. This module imports neither torch nor timm, so that
`--help`, plans and tables are quick; units are converted here and nowhere else.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.errors import OverrideParseException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

if TYPE_CHECKING:
    from agr.attacks import Attack
    from agr.models.defenses import Defense

PACKAGE = Path(__file__).resolve().parent
LEVELS = 255
HASH_LENGTH = 10
SLUG_LENGTH = 80


class ConfigError(ValueError):
    """A wrong input; its text is one line that names the thing, the value and the way out."""


# ---- the schema ---------------------------------------------------------------------------------


@dataclass
class Geometry:
    """How a file becomes the image that is attacked: resized to size/crop, centre cut out."""

    size: int = MISSING  # pixels, height and width
    crop: float = 1.0
    interpolation: str = "bilinear"  # bilinear | bicubic
    mode: str = "center"  # center: the shorter side is resized | squash: both sides are


@dataclass
class Data:
    """Where images and labels are; agr.data.manifest recognises the layout."""

    root: str | None = None  # a folder, an uncompressed tar or a CSV
    labels: str | None = None  # file of labels; null: looked for beside the images
    cache: bool = False  # keep decoded images on disk, below outputs


@dataclass
class NetworkConfig:
    """One network. Where it has a `tag`, timm's registry or the hub gives what is left out."""

    title: str | None = None  # in tables
    tag: str | None = None  # as agr.models.pretrained reads it: vgg16.tv_in1k, hf-hub:owner/name
    architecture: str = MISSING  # timm's name
    arguments: dict[str, Any] = field(default_factory=dict)  # of its constructor in timm
    weights: str = MISSING  # a safetensors (or torch) file, or hub:owner/name
    sha256: str | None = None  # of that file; another hash is refused
    width: float | None = None  # a slim copy at this fraction of the width (agr.models.slim)
    classes: int = 1000
    size: int = MISSING  # pixels of its input
    fixed_size: bool = False  # it takes no other
    resize: str = "bilinear"  # how images of another size are brought to it, antialiased
    crop: float = 1.0  # of its own geometry, with `size` and the next two
    interpolation: str = "bilinear"
    mode: str = "center"
    mean: list[float] = MISSING
    std: list[float] = MISSING
    top1: float | None = None  # published, percent, in its own geometry

    @property
    def geometry(self) -> Geometry:
        """Of images crafted on it where it stands in no group."""
        return Geometry(self.size, self.crop, self.interpolation, self.mode)


@dataclass
class Group:
    """Networks that are compared with each other, and the geometry of images crafted on them."""

    networks: list[str] = MISSING
    geometry: Geometry = field(default_factory=Geometry)


@dataclass
class Suite:
    """Images and networks."""

    name: str = MISSING
    notice: str | None = None  # printed with every output
    root: str | None = None  # of the images; data.root is this unless given
    labels: str | None = None  # likewise data.labels
    synsets: str | None = None  # imagenet: classes in timm's order; null: sorted synset folders
    images: int | None = None  # how many there are when the data are complete
    n_images: int = 1000
    l2_reference: int | None = None  # pixels x channels for which L2 budgets are stated
    groups: dict[str, Group] = MISSING
    networks: dict[str, NetworkConfig] = MISSING


@dataclass
class AttackConfig:
    """An attack as named parts; conf/attack/_base.yaml says what each slot is."""

    name: str = MISSING
    title: str = MISSING  # in tables
    steps: int = 10
    size: Any = "even"
    targeted: bool = False
    label: str = "truth"
    loss: Any = MISSING
    chain: dict[str, Any] = field(default_factory=dict)
    step: Any = MISSING
    stop: Any = None


@dataclass
class Norm:
    """A norm and its default budget on the 0-255 pixel scale."""

    name: str = MISSING
    eps: float = MISSING


@dataclass
class Check:
    """How thorough `python -m agr.check` is."""

    images: int = 500  # for the accuracy of each network
    seconds: float = 20.0  # for the estimate of the run time, all sources together


@dataclass
class Config:
    """The knobs of a run, as in conf/config.yaml."""

    suite: Suite = field(default_factory=Suite)
    data: Data = field(default_factory=Data)
    attack: AttackConfig = field(default_factory=AttackConfig)
    norm: Norm = field(default_factory=Norm)
    experiment: Any = None
    defenses: dict[str, Any] = field(default_factory=dict)  # by name, for targets: vgg16/jpeg75
    source: Any = MISSING  # a network, or a list of them: an ensemble
    ensemble: str = "logits"  # what is averaged over its members: logits | losses
    targets: list[str] | None = None  # null: the source's group
    eps: float = MISSING
    steps: int = MISSING
    n_images: int = MISSING
    select: str = "group"  # none | source | group: which networks must be right about an image
    seed: int = 0  # of the choice of images and of target labels
    success: str | None = None  # label | changed | targeted
    denominator: str = "all"  # all | target-correct | all-correct, of the closing table
    quantize: str = "always"  # always | end | off
    slots: int | None = None
    width: int | None = None  # images per scoring batch
    memory_format: str = "channels_last"  # channels_last | contiguous
    precision: str = "fp32"  # fp32 | bf16 | fp64
    threads: int | None = None
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    workers: int = 2
    shard: str = "0/1"  # i/k: this run does every k-th image, from the i-th
    outputs: str = "outputs"
    trace: bool = False  # one row per (image, step): fooled, l2, cosine
    save_adversarials: bool = False
    part_seconds: float = 20.0
    progress: bool = True
    check: Check = field(default_factory=Check)


STEP_RULES = ("even", "decaying", "full")  # see agr.attacks.step.step_size
RESIZING = ("bilinear", "bicubic")
MODES = ("center", "squash")
CHOICES = {
    "select": ("none", "source", "group"),
    "success": (None, "label", "changed", "targeted"),
    "denominator": ("all", "target-correct", "all-correct"),
    "quantize": ("always", "end", "off"),
    "ensemble": ("logits", "losses"),
    "memory_format": ("channels_last", "contiguous"),
    "precision": ("fp32", "bf16", "fp64"),
    "attack.label": ("truth", "prediction"),
    "norm.name": ("linf", "l2"),
}

ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("agr.assets", lambda path: str(PACKAGE / "assets" / path))


def conf_dir() -> str:
    """The folder of configs: inside an installed package, or at the top of a checkout."""
    inside = PACKAGE / "conf"
    return str(inside if inside.is_dir() else PACKAGE.parent / "conf")


# ---- a cell -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A checked config and what follows from it."""

    config: Config
    words: tuple[str, ...] = ()  # the command line that it was composed from

    @property
    def suite(self) -> Suite:
        """The images and networks."""
        return self.config.suite

    @property
    def sources(self) -> list[str]:
        """The networks that the attack is crafted on: one, or the members of an ensemble."""
        source = self.config.source
        return [source] if isinstance(source, str) else list(source)

    @property
    def source(self) -> str:
        """The name of what the attack is crafted on; an ensemble's is "inc_v3+inc_v4"."""
        return "+".join(self.sources)

    def white_box(self, target: str) -> bool:
        """Whether the attack is crafted on this target; a defended network is another one."""
        return target in self.sources

    @cached_property
    def group(self) -> Group:
        """The group of the first source, with the other sources.

        A network that stands in no group of the suite is a group of its own, in its own geometry.
        """
        first = self.sources[0]
        alone = Group([first], self.suite.networks[first].geometry)
        base = next((g for g in self.suite.groups.values() if first in g.networks), alone)
        return Group(list(dict.fromkeys([*base.networks, *self.sources])), base.geometry)

    @property
    def geometry(self) -> Geometry:
        """The geometry of the adversarial images."""
        return self.group.geometry

    @property
    def targets(self) -> list[str]:
        """What is scored: networks, and defended ones as "vgg16/jpeg75"."""
        return list(dict.fromkeys(self.config.targets or self.group.networks))

    @property
    def selecting(self) -> list[str]:
        """The networks that must classify an image correctly for it to be attacked."""
        return {"none": [], "source": self.sources, "group": list(self.group.networks)}[
            self.config.select
        ]

    @property
    def networks(self) -> list[str]:
        """The names of all networks that the cell works with, without their defenses."""
        targets = [undefended(t, self.config.defenses)[0] for t in self.targets]
        return list(dict.fromkeys([*self.sources, *self.selecting, *targets]))

    def network_digest(self, target: str) -> str:
        """Of everything that the config says of a target and its defenses."""
        name, defenses = undefended(target, self.config.defenses)
        parts = [self.config.defenses[d] for d in defenses]
        return digest([_numbers_of(self.suite.networks[name]), *parts])

    @property
    def success(self) -> str:
        """What counts as success: "label", "changed" or "targeted"."""
        return self.config.success or ("targeted" if self.config.attack.targeted else "label")

    @property
    def shard(self) -> tuple[int, int]:
        """(i, k): positions p of the selection with p % k == i are this run's."""
        i, k = self.config.shard.split("/")
        return int(i), int(k)

    @property
    def eps_effective(self) -> float:
        """`eps` on the 0-255 scale after the suite's rescaling of L2 budgets."""
        return self.config.eps * self.eps_scale

    @property
    def eps_scale(self) -> float:
        """What the suite multiplies budgets and step sizes of this norm with."""
        reference = self.suite.l2_reference
        if self.config.norm.name != "l2" or reference is None:
            return 1.0
        return math.sqrt(3 * self.geometry.size**2 / reference)

    @property
    def attack_hash(self) -> str:
        """Of the attack's parts and parameters; its name and the budget don't count."""
        parts = asdict(self.config.attack) | {"steps": self.config.steps}
        return digest({k: v for k, v in parts.items() if k not in ("name", "title")})

    @cached_property
    def id(self) -> str:
        """Of everything that decides the numbers; not how, where or for which targets it runs."""
        names_of = {*self.sources, *self.selecting}
        networks = {n: _numbers_of(self.suite.networks[n]) for n in names_of}
        ensemble = {"ensemble": self.config.ensemble} if len(self.sources) > 1 else {}
        names = ("eps", "seed", "select", "quantize")
        return digest(
            {
                **{name: getattr(self.config, name) for name in names},
                "suite": self.suite.name,
                "geometry": asdict(self.geometry),
                "eps_effective": self.eps_effective,
                "attack": self.attack_hash,
                "norm": self.config.norm.name,
                "source": self.source,
                "success": self.success,
                "networks": networks,
                **ensemble,
            }
        )

    @property
    def name(self) -> str:
        """Readable and unique: the name of the cell's folder."""
        c = self.config
        return f"{c.attack.name}-{c.norm.name}-{c.eps:g}-{slug(self.source)}-{self.id}"

    @property
    def folder(self) -> Path:
        """Where the cell's records stand."""
        return Path(self.config.outputs) / self.suite.name / self.name

    @property
    def data_folder(self) -> Path:
        """Where the index of the images and their decoded copies are kept."""
        return Path(self.config.outputs) / self.suite.name / "data"

    @property
    def attack_words(self) -> list[str]:
        """The words that change the attack from what its file says."""
        return [w for w in self.words if w.lstrip("+~").startswith("attack.")]

    def command(self) -> str:
        """The command that runs this cell."""
        return shlex.join(["python", "-m", "agr.run", *self.words])


def slug(name: str) -> str:
    """A network's name as a part of a file's name: no separators, and not too long."""
    return re.sub(r"[^\w.+-]+", "_", name)[-SLUG_LENGTH:]


def undefended(target: str, defenses: Iterable[str]) -> tuple[str, list[str]]:
    """A target's network and its defenses, in their order: "vgg16/jpeg75" is vgg16 and jpeg75."""
    name = target
    found: list[str] = []
    while "/" in name and name.rpartition("/")[2] in defenses:
        name, _, last = name.rpartition("/")
        found.insert(0, last)
    return name, found


def _numbers_of(network: NetworkConfig) -> dict[str, Any]:
    """What decides a network's answers; of its weights the hash counts, not the place."""
    known = asdict(network) | {"weights": Path(network.weights).name}
    idle = ("title", "tag", "top1", "crop", "interpolation", "mode")
    return {k: v for k, v in known.items() if k not in idle}


def digest(value: Any) -> str:
    """A short hash of plain data, the same in every process."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def to_cell(config: DictConfig, words: Iterable[str] = ()) -> Cell:
    """Check a config, composed from `words`, and make it a cell.

    Raises ConfigError, with one line, for whatever a run could not work with.
    """
    _reject_unknown_keys(config, Config, "")
    try:
        cell = Cell(OmegaConf.to_object(_with_networks(config)), tuple(words))  # type: ignore[arg-type]
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(first_line(e)) from e
    _check_choices(cell.config)
    _check_names(cell.config)
    _check_numbers(cell)
    return cell


def expand(overrides: Sequence[str]) -> list[Cell]:
    """The cells of a command line: one, or one for each point of its sweep.

    `overrides` are Hydra's words ("attack=ifgsm,agr", "experiment=paper"). Raises ConfigError.
    """
    from hydra import compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        with _composer():
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            words = parser.parse_overrides(_without_flags(overrides))
            plain = [o.input_line for o in words if not o.is_sweep_override() and o.input_line]
            full = compose("config", plain, return_hydra_config=True)
            given = {o.key_or_group for o in words}
            params = full.hydra.sweeper.params or {}
            swept = [f"{k}={v}" for k, v in params.items() if k not in given]
            words += parser.parse_overrides(swept)
            points = BasicSweeper.split_arguments(words, None)[0]
            return [to_cell(compose("config", list(point)), point) for point in points]
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(explain(e)) from e


@contextmanager
def _composer() -> Iterator[None]:
    """Hydra over our configs, whatever Hydra application this process may be."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    outer, instance.hydra = instance.hydra, None
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            yield
    finally:
        instance.hydra = outer


def _without_flags(arguments: Sequence[str]) -> list[str]:
    """The words of a command line without -m; --config-dir becomes a word that means the same."""
    words, rest = [], iter(arguments)
    for word in rest:
        flag, _, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            words.append(f"hydra.searchpath=[{value or next(rest, '')}]")
        elif word not in ("-m", "--multirun"):
            words.append(word)
    return words


# ---- an attack from its config -------------------------------------------------------------------


def build_attack(c: Config, scale: float = 1.0) -> Attack:
    """The attack of a config. Budget and step size go from the 0-255 scale to [0, 1] here.

    `scale` is the suite's rescaling (`Cell.eps_scale`). Raises ConfigError.
    """
    from agr.attacks import Attack
    from agr.attacks.ball import BALLS

    a = c.attack
    stages = {k: part for k, part in a.chain.items() if part is not None}
    try:
        return Attack(
            ball=BALLS[c.norm.name](c.eps * scale / LEVELS),
            steps=c.steps,
            size=a.size if isinstance(a.size, str) else a.size * scale / LEVELS,
            loss=_attack_part("loss", "loss", a.loss),
            chain=tuple(_attack_part(f"chain.{k}", "stages", part) for k, part in stages.items()),
            step=_attack_part("step", "step", a.step),
            stop=None if a.stop is None else _attack_part("stop", "stop", a.stop),
            targeted=a.targeted,
            quantize=c.quantize,  # type: ignore[arg-type]
        )
    except ConfigError:
        raise
    except ValueError as e:
        raise ConfigError(f"attack={a.name}: {e}") from e


def load_attack(
    name: str,
    norm: str = "linf",
    eps: float | None = None,
    steps: int | None = None,
    overrides: Iterable[str] = (),
    quantize: str = "always",
) -> Attack:
    """An attack of conf/attack by its name, to be called as ``attack(model, x, y)``.

    Args:
        name: as in ``attack=name`` on the command line.
        norm: "linf" or "l2".
        eps: the budget on the 0-255 pixel scale; the norm's default (10, 1500) when None.
            L2 budgets are taken as they are, not scaled to the image's size.
        steps: T; the attack's own when None.
        overrides: further words, as ``"attack.chain.momentum.decay=0.5"``.
        quantize: see `agr.attacks.Attack`.

    Raises ConfigError for an unknown name or a value that cannot work.
    """
    words = [f"attack={name}", f"norm={norm}", *overrides]
    words += [f"eps={eps}"] if eps is not None else []
    words += [f"steps={steps}"] if steps is not None else []
    return build_attack(
        expand([*words, f"quantize={quantize}", "suite.l2_reference=null"])[0].config
    )


def build_defenses(c: Config, names: Iterable[str]) -> list[Defense]:
    """The parts of defenses by their names in the config, in that order. Raises ConfigError."""
    found = []
    for name in names:
        node = c.defenses[name]
        parts = node if isinstance(node, list) else [node]
        found += [_part(f"defenses.{name}", "agr.models.defenses", part) for part in parts]
    return found


def _attack_part(slot: str, module: str, node: Any) -> Any:
    return _part(f"attack.{slot}", f"agr.attacks.{module}", node)


def _part(key: str, module: str, node: Any) -> Any:
    """The part that a node describes; only our own parts in the key's module are ever made."""
    from hydra.utils import instantiate

    target = node.get("_target_") if isinstance(node, dict) else None
    if not isinstance(target, str) or target.rpartition(".")[0] != module:
        raise ConfigError(
            f"{key} has _target_={target}: it must name a part of {module}, as the files in conf do"
        )
    try:
        return instantiate(node, _convert_="all")
    except Exception as e:
        raise ConfigError(f"{key}: {first_line(e.__cause__ or e)}") from e


# ---- networks by their names ----------------------------------------------------------------------


def _with_networks(config: DictConfig) -> DictConfig:
    """`config`, with every network that it names written out.

    What the suite doesn't say of a network comes from agr.models.pretrained, which has to load
    timm for it; so suites write out the networks that are used every day. Raises ConfigError.
    """
    known = config.suite.networks
    named = _named_networks(config)
    short = [n for n in known if OmegaConf.is_missing(known[n], "architecture")]
    if not short and all(name in known for _, name in named):
        return config
    from agr.models.pretrained import describe, is_tag

    config = copy.deepcopy(config)
    known = config.suite.networks
    OmegaConf.set_struct(known, False)
    for name in short:
        said = OmegaConf.to_container(known[name], resolve=True)
        default = asdict(NetworkConfig())
        own = {k: v for k, v in said.items() if v != default[k]}  # what is missing is "???" in both
        if "tag" not in own:
            raise ConfigError(f"network {name} of the suite has neither architecture nor tag")
        known[name] = NetworkConfig(**describe(own["tag"], f"network {name}") | own)
    for place, name in named:
        if name not in known:
            if undefended(name.rpartition("/")[0], config.defenses)[0] in known or not is_tag(name):
                raise _unknown(place, name, config)
            known[name] = NetworkConfig(**describe(name, place))
    return config


def _named_networks(config: DictConfig) -> list[tuple[str, str]]:
    """(where it stands in the config, name) of sources and targets, without defenses."""
    source, targets = config.source, config.targets
    sources = [source] if isinstance(source, str) else source
    if not isinstance(sources, list | ListConfig) or not all(isinstance(s, str) for s in sources):
        raise ConfigError(f"source={source} is no network: give a name, or a list [name,name]")
    if not sources or len(set(sources)) < len(sources):
        raise ConfigError(f"source={source}: an ensemble is a list of different networks")
    for name in sources:
        bare, defenses = undefended(name, config.defenses)
        if defenses and name not in config.suite.networks:
            raise ConfigError(
                f"source={name}: defenses are for targets; attack {bare} and score {name} with "
                f"targets=[{bare},{name}]"
            )
    bare_targets = [undefended(t, config.defenses)[0] for t in targets or []]
    return [(f"source={s}", s) for s in sources] + [(f"target {t}", t) for t in bare_targets]


def _unknown(place: str, name: str, config: DictConfig) -> ConfigError:
    """What to say of a name that is neither a network nor a defended one."""
    network, _, defense = name.rpartition("/")
    if undefended(network, config.defenses)[0] in config.suite.networks:
        return ConfigError(f"{place}: {defense} is no defense: {nearest(defense, config.defenses)}")
    return ConfigError(f"{place} is unknown: {nearest(name, config.suite.networks)}")


# ---- checks --------------------------------------------------------------------------------------


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that help to correct `name`: the closest of the `known` names, or else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def first_line(e: BaseException) -> str:
    """The first line of an error's text."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]


def explain(e: BaseException) -> str:
    """One line for what Hydra or OmegaConf raised, with the nearest names where a name is wrong."""
    options = getattr(e, "options", None)
    missing = getattr(e, "missing_cfg_file", None)
    if missing and options is not None:
        group, _, name = str(missing).rpartition("/")
        return f"{group}={name} is unknown: {nearest(name, [o for o in options if o[0] != '_'])}"
    if isinstance(e, OverrideParseException):
        return f"{e.override} cannot be read: {first_line(e)}"
    cause = e.__cause__ or e
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    if "not in" in str(cause) and key:
        return f"{key} is no key of the config: {nearest(str(key), _all_keys(Config))}"
    if str(cause).startswith("Ambiguous value"):
        return f"{first_line(cause)}: to sweep over its values put -m first; a list is [a,b]"
    if "ListConfig" in str(cause):
        return "targets is a list: write targets=[vgg16,vgg19]"
    lines = [line.strip() for line in f"{e}\n{e.__cause__ or ''}".splitlines() if line.strip()]
    noise = ("HYDRA_FULL_ERROR", "full_key:", "object_type=", "See https://")
    return "; ".join(dict.fromkeys(n for n in lines if not any(word in n for word in noise)))


def _all_keys(schema: Any, prefix: str = "") -> list[str]:
    keys = []
    for f in fields(schema):
        keys.append(prefix + f.name)
        inner: Any = f.default_factory
        if is_dataclass(inner):
            keys += _all_keys(inner, f"{prefix}{f.name}.")
    return keys


def _reject_unknown_keys(node: DictConfig, schema: Any, prefix: str) -> None:
    """`+key=value` slips past Hydra's own check; a key that nothing reads must be an error."""
    known = {f.name for f in fields(schema)}
    for key in map(str, node):
        if key not in known:
            raise ConfigError(f"{prefix}{key} is no key of the config: {nearest(key, known)}")
        inner: Any = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        kind = OmegaConf.get_type(inner) if isinstance(inner, DictConfig) else None
        named = {f"{prefix}{key}.": inner}
        if kind is dict:  # named networks, named groups
            named = {f"{prefix}{key}.{name}.": inner._get_node(name) for name in inner}
        for place, child in named.items():
            kind = OmegaConf.get_type(child) if isinstance(child, DictConfig) else None
            if kind is not None and is_dataclass(kind):
                _reject_unknown_keys(child, kind, place)


def _check_choices(c: Config) -> None:
    for key, known in CHOICES.items():
        value: Any = c
        for word in key.split("."):
            value = getattr(value, word)
        if value not in known:
            names = [k for k in known if k is not None]
            raise ConfigError(f"{key}={value} is unknown: {nearest(str(value), names)}")


def _check_names(c: Config) -> None:
    grouped = [n for g in c.suite.groups.values() for n in g.networks]
    for name in grouped:
        if name not in c.suite.networks:
            raise ConfigError(
                f"suite.groups names {name}: {nearest(name, c.suite.networks)} (suite.networks)"
            )
    for group in c.suite.groups.values():
        _check_geometry(group.geometry)
    for name, network in c.suite.networks.items():
        _check_network(name, network)
    if c.targets is not None and not c.targets:
        raise ConfigError("targets=[] names no network: leave it out for the source's group")
    if not c.outputs:
        raise ConfigError("outputs= names no folder")
    if c.attack.targeted and c.attack.label != "truth":
        raise ConfigError(
            f"attack.label={c.attack.label} says what an untargeted attack moves away from: leave "
            "it out with attack.targeted=true"
        )
    if c.success == "targeted" and not c.attack.targeted:
        raise ConfigError("success=targeted needs a targeted attack: add attack.targeted=true")
    if c.save_adversarials and c.quantize == "off":
        raise ConfigError(
            "save_adversarials=true keeps 8-bit images, quantize=off makes none: use always or end"
        )


def _check_geometry(g: Geometry) -> None:
    if g.mode not in MODES:
        raise ConfigError(f"geometry.mode={g.mode} is unknown: {nearest(g.mode, MODES)}")
    if g.interpolation not in RESIZING:
        raise ConfigError(
            f"geometry.interpolation={g.interpolation} is unknown: "
            f"{nearest(g.interpolation, RESIZING)}"
        )
    if g.size < 1 or not 0 < g.crop <= 1:
        raise ConfigError(f"geometry: size={g.size} crop={g.crop} cannot be: 1 or more, and 0 to 1")


def _check_network(name: str, n: NetworkConfig) -> None:
    if n.resize not in RESIZING:
        raise ConfigError(
            f"network {name}: resize={n.resize} is unknown: {nearest(n.resize, RESIZING)}"
        )
    if len(n.mean) != 3 or len(n.std) != 3 or not all(s > 0 for s in n.std):
        raise ConfigError(f"network {name}: mean={n.mean} std={n.std}: give three, std above 0")
    if n.size < 1 or n.classes < 2:
        raise ConfigError(f"network {name}: size={n.size} classes={n.classes} cannot be")


def _check_numbers(cell: Cell) -> None:
    c = cell.config
    if c.suite.l2_reference is not None and c.suite.l2_reference < 1:
        raise ConfigError(f"suite.l2_reference={c.suite.l2_reference} is no number of values")
    if not (math.isfinite(c.eps) and c.eps >= 0):
        raise ConfigError(f"eps={c.eps} is no budget: give a number that is 0 or more")
    if c.norm.name == "linf" and 0 < c.eps < 1 and c.quantize != "off":
        raise ConfigError(
            f"eps={c.eps:g} is below one level of an 8-bit image: eps is on the 0-255 scale "
            f"({c.eps:g} of [0, 1] is {c.eps * LEVELS:g}); quantize=off allows it"
        )
    d = 3 * cell.geometry.size**2
    bound = LEVELS * (math.sqrt(d) if c.norm.name == "l2" else 1)
    if cell.eps_effective > bound:
        scaled = f" ({cell.eps_effective:g} in effect)" if cell.eps_effective != c.eps else ""
        raise ConfigError(
            f"eps={c.eps:g}{scaled} is beyond the {c.norm.name} bound {bound:g} of images of "
            f"{cell.geometry.size} px: eps is on the 0-255 pixel scale"
        )
    least = {"steps": 1, "n_images": 1, "slots": 1, "width": 1, "threads": 1, "workers": 1}
    for key, low in least.items():
        value = getattr(c, key)
        if value is not None and value < low:
            raise ConfigError(f"{key}={value} is too small: give {low} or more")
    size = c.attack.size
    if isinstance(size, str):
        fine = size in STEP_RULES
    else:
        fine = isinstance(size, int | float) and not isinstance(size, bool) and size > 0
    if not fine:
        raise ConfigError(
            f"attack.size={size} is no step size: give a number above 0 or one of "
            f"{', '.join(STEP_RULES)}"
        )
    try:
        i, k = cell.shard
    except ValueError:
        i, k = -1, 0
    if not 0 <= i < k:
        raise ConfigError(f"shard={c.shard} is no shard: write i/k with 0 <= i < k, as 0/3")
