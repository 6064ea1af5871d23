"""Schema of a config: name, type and meaning of every key. Imports neither torch nor timm."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from agr.utils.program import PACKAGE, as_called

# The slots of an attack and the modules of agr.attacks that have their parts; those of GROUPS hold
# several, by name.
SLOTS = {
    "start": "start",
    "loss": "loss",
    "objective": "objectives",
    "views": "views",
    "surrogate": "rules",
    "ensemble": "ensembles",
    "chain": "stages",
    "step": "step",
    "stop": "stop",
    "library": "library",
}
GROUPS = ("views", "surrogate", "chain")
CHUNK = 32  # images that another library's attack gets at once, unless its config says otherwise
MOST_IMAGES = {"chunk": 65_536, "fit_images": 100_000}  # that it may get, or be fitted on


@dataclass
class Geometry:
    """Geometry of attacked images: a file is resized to size/crop, and its centre is cut out."""

    size: int = MISSING  # pixels, height and width
    crop: float = 1.0  # share of the resized side that is kept
    interpolation: str = "bilinear"  # bilinear | bicubic
    mode: str = "center"  # center: the shorter side is resized | squash: both sides are


@dataclass
class Data:
    """Places of images and labels; agr.data.manifest recognises the layout."""

    root: str | None = None  # a folder, an uncompressed tar or a CSV
    labels: str | None = None  # file of labels; null: looked for beside the images
    cache: bool = False  # keep decoded images on disk, below outputs


@dataclass
class NetworkConfig:
    """One network. With a `tag`, timm's registry or the hub gives what is left out."""

    title: str | None = None  # in tables
    tag: str | None = None  # as agr.config.registry reads it: vgg16.tv_in1k, hf-hub:owner/name
    architecture: str = MISSING  # timm's name
    arguments: dict[str, Any] = field(default_factory=dict)  # of its constructor in timm
    weights: str = MISSING  # a safetensors (or torch) file, or hub:owner/name
    sha256: str | None = None  # of that file; another hash is refused
    family: str | None = None  # one of FAMILIES; null: unknown
    width: float | None = None  # a slim copy at this fraction of the width (agr.models.slim)
    classes: int = 1000  # of its logits
    size: int = MISSING  # pixels of its input
    fixed_size: bool = False  # it takes no other
    resize: str | None = None  # bilinear: how images of another size are brought to it, antialiased
    crop: float | None = None  # 1.0; of its own geometry, with `size` and the next two
    interpolation: str | None = None  # bilinear
    mode: str | None = None  # center
    mean: list[float] = MISSING  # of its preprocessing, for images in [0, 1]
    std: list[float] = MISSING  # likewise
    top1: float | None = None  # published, percent, in its own geometry
    license: str | None = None  # of the weights, by its SPDX id where it has one; null: not stated

    def __post_init__(self) -> None:
        # None until here: a suite's own values must be told from what it leaves out
        self.resize = self.resize or "bilinear"
        self.crop = 1.0 if self.crop is None else self.crop
        self.interpolation = self.interpolation or "bilinear"
        self.mode = self.mode or "center"

    @property
    def geometry(self) -> Geometry:
        """Image geometry for a network that belongs to no group."""
        return Geometry(self.size, self.crop or 0.0, str(self.interpolation), str(self.mode))


@dataclass
class Group:
    """Networks that are compared with each other, and the geometry of images crafted on them."""

    networks: list[str] = MISSING  # names of the suite's networks
    geometry: Geometry = field(default_factory=Geometry)  # of their images
    extra: bool = False  # sweeps over the suite's groups leave it out
    sources: list[str] = field(default_factory=list)  # of eps and leaderboards; none: the first


@dataclass
class Suite:
    """Images and networks."""

    name: str = MISSING  # the folder of its records below outputs
    notice: str | None = None  # printed with every output
    root: str | None = None  # of the images; data.root is this unless given
    labels: str | None = None  # likewise data.labels
    data_license: str | None = None  # of the images at `root`, as a network's; null: not stated
    synsets: str | None = None  # imagenet: classes in timm's order; null: sorted synset folders
    images: int | None = None  # how many there are when the data are complete
    classes: int | None = None  # of these images; null: as many as the groups' networks know
    n_images: int = 1000  # the default of the config's own key
    l2_reference: int | None = None  # pixels x channels for which L2 budgets are stated
    groups: dict[str, Group] = MISSING  # by name, in the order of tables
    networks: dict[str, NetworkConfig] = MISSING  # by name, as in source=NAME


@dataclass
class GivenConfig:
    """Adversarial images that another program made (agr.score images=…)."""

    folder: str = MISSING  # of PNGs, named by their images' ids
    sha256: str = MISSING  # of their ids and pixels


@dataclass
class AttackConfig:
    """An attack as named parts; conf/attack/_base.yaml says what each slot is."""

    name: str = MISSING  # as in attack=NAME
    title: str = MISSING  # in tables
    steps: int = 10  # the default of the config's own key
    size: Any = "even"  # of a step: one of STEP_RULES, eps/N, or levels
    targeted: bool = False  # towards target labels
    target: str | None = None  # random | least_likely | file; null: the file's, else random
    label: str = "truth"  # attacked: truth | prediction, the source's of the clean image
    quantize: str = "always"  # the default of the config's own key
    start: Any = None  # where iterates begin; null: at the image
    loss: Any = None  # what gradients are of
    objective: Any = None  # a loss over features, in its place
    views: dict[str, Any] = field(default_factory=dict)  # copies that gradients are averaged over
    surrogate: dict[str, Any] = field(default_factory=dict)  # rules on the source's modules
    ensemble: Any = None  # how the members' gradients are joined
    chain: dict[str, Any] = field(default_factory=dict)  # stages, from the gradient to the step
    step: Any = None  # how the iterate moves
    stop: Any = None  # which images are done early
    library: Any = None  # another library's attack (agr.attacks.library), in place of all parts
    images: GivenConfig | None = None  # or images that another program made

    def parts(self) -> dict[str, Any]:
        """Return the nodes of the filled slots by their keys, such as "step" and "views.scale"."""
        found = {slot: getattr(self, slot) for slot in SLOTS if slot not in GROUPS}
        for group in GROUPS:
            found |= {f"{group}.{name}": node for name, node in getattr(self, group).items()}
        return {key: node for key, node in found.items() if node is not None}


@dataclass
class Norm:
    """A norm and its default budget on the 0-255 pixel scale."""

    name: str = MISSING  # linf | l2
    eps: float = MISSING  # the default of the config's own key


@dataclass
class Check:
    """Effort of `python -m agr.check`."""

    images: int = 500  # for the accuracy of each network
    seconds: float = 20.0  # for the estimate of the run time, all sources together


@dataclass
class Config:
    """Settings of a run, as in conf/config.yaml."""

    suite: Suite = field(default_factory=Suite)  # images and networks, a file of conf/suite
    data: Data = field(default_factory=Data)  # where they are
    attack: AttackConfig = field(default_factory=AttackConfig)  # a file of conf/attack
    norm: Norm = field(default_factory=Norm)  # a file of conf/norm
    experiment: Any = None  # a sweep, a file of conf/experiment
    allow: list[str] = field(default_factory=list)  # packages whose parts attacks may name
    defenses: dict[str, Any] = field(default_factory=dict)  # by name: vgg16/jpeg75
    source: Any = MISSING  # a network, or a list of them: an ensemble
    eot: int = 0  # draws of the source's random defenses that a gradient is averaged over; 0: none
    ensemble: str = "logits"  # what is averaged over its members: logits | losses
    targets: list[str] | None = None  # null: the source's group
    eps: float = MISSING  # budget on the 0-255 pixel scale
    steps: int = MISSING  # T, at most
    gradients: int | None = None  # per image, at most: steps follows from it
    n_images: int = MISSING  # counted after selection
    select: str = "group"  # none | source | group: which networks must be right about an image
    split: str = "all"  # all | tuning: the end of the seeded order (agr.evaluation.images)
    seed: int = 0  # of the choice of images and of target labels
    success: str | None = None  # label | changed | targeted
    denominator: str = "all"  # all | target-correct | all-correct, of the closing table
    quantize: str = "always"  # always | end | off
    paper: bool | None = None  # the paper's values beside ours; null: where the setting is its own
    slots: int | None = None  # images attacked at once; null: 32, on a GPU what fits, to 128
    width: int | None = None  # images per scoring batch; null: as slots
    memory_format: str = "auto"  # auto: by the network | channels_last | contiguous | try: timed
    fold: bool = True  # batch norms go into the convolutions before them
    precision: str = "fp32"  # fp32 | tf32 | bf16 | fp64
    fp32_images: int = 64  # done in fp32 as well, to compare, where precision is tf32 or bf16
    threads: int | None = None  # of torch on a CPU; null: all cores
    device: str = "auto"  # auto: a GPU if there is one, of several the shard's | cpu | cuda:N
    resident: bool | None = None  # keep all targets on the device; null: if they fit
    graph: bool | None = False  # replay gradient passes as CUDA graphs; null: where that can be
    workers: int = 2  # threads that decode images ahead
    shard: str = "0/1"  # i/k: this run does every k-th image, from the i-th
    wait: bool = False  # for another process that runs the cell, rather than leave it to that one
    outputs: str = "outputs"  # folder of all records
    perceptual: bool = False  # PSNR, SSIM and CIEDE2000 of every image
    lpips: Any = None  # a file or list of files: LPIPS of every image too (agr.models.lpips)
    trace: bool = False  # one row per (image, step): fooled, l2, cosine
    score_steps: list[int] | None = None  # whose iterates are scored on every target, too
    save_adversarials: bool | int = False  # of all images, or of the first so many
    part_seconds: float = 20.0  # how often finished images are written
    progress: bool = True  # a bar on stderr
    check: Check = field(default_factory=Check)  # of agr.check


STEP_RULES = ("even", "decaying", "full")  # see agr.attacks.step.step_size
STEP_FRACTION = re.compile(r"eps/([1-9][0-9]*(?:\.[0-9]+)?)")  # likewise: eps/4
LARGEST_SIDE = 16_384  # pixels; one image of it has 800 million values
RESIZING = ("bilinear", "bicubic")
# Kinds of networks that the field reports apart: convolutions only; self-attention, with or
# without convolutions; neither (MLP-Mixer).
FAMILIES = ("cnn", "transformer", "mlp")
MODES = ("center", "squash")
CHOICES = {
    "select": ("none", "source", "group"),
    "split": ("all", "tuning"),
    "success": (None, "label", "changed", "targeted"),
    "denominator": ("all", "target-correct", "all-correct"),
    "quantize": ("always", "end", "off"),
    "ensemble": ("logits", "losses"),
    "memory_format": ("auto", "channels_last", "contiguous", "try"),
    "precision": ("fp32", "tf32", "bf16", "fp64"),
    "attack.quantize": ("always", "end", "off"),
    "attack.label": ("truth", "prediction"),
    "attack.target": (None, "random", "least_likely", "file"),
    "norm.name": ("linf", "l2"),
    "suite.synsets": (None, "imagenet"),
}

ConfigStore.instance().store(name="schema", node=Config)


def _grouped(groups: Mapping[str, Any]) -> list[str]:
    return [name for g in groups.values() if not g.get("extra") for name in g["networks"]]


def _sources(groups: Mapping[str, Any]) -> list[str]:
    swept = [group for group in groups.values() if not group.get("extra")]
    return [name for g in swept for name in g.get("sources") or g["networks"][:1]]


OmegaConf.register_new_resolver("agr.first", lambda groups: next(iter(_grouped(groups)), "none"))
OmegaConf.register_new_resolver("agr.firsts", lambda groups: ",".join(_sources(groups)))
OmegaConf.register_new_resolver("agr.grouped", lambda groups: ",".join(_grouped(groups)))
OmegaConf.register_new_resolver("agr.if_env", lambda key, a, b: a if os.environ.get(key) else b)
OmegaConf.register_new_resolver("agr.assets", lambda path: str(PACKAGE / "assets" / path))
OmegaConf.register_new_resolver("agr.command", lambda name: as_called(f"python -m agr.{name}"))


def conf_dir() -> str:
    """Folder of configs: inside an installed package, or at the top of a checkout."""
    inside = PACKAGE / "conf"
    return str(inside if inside.is_dir() else PACKAGE.parent / "conf")


@dataclass(frozen=True)
class Tuning:
    """Memory format and folding of a network, which decide the last bits of its logits."""

    memory_format: str
    folded: bool  # batch norms are folded into the convolutions before them
    unfolded_because: str = field(default="", compare=False)
