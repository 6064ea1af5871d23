"""A cell: its config and its identity.

A *cell* is one (attack, norm, eps, source) with everything that decides its numbers: what one run
computes and one folder of records holds. This module imports neither torch nor timm, so that
`--help`, plans and tables are quick.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from agr.config.networks import numbers_of, same_network, undefended, without_place
from agr.config.overrides import shell_command
from agr.config.schema import CHUNK, GROUPS, Config, Geometry, Group, Suite
from agr.config.security import code_of, targets_of
from agr.utils.files import same_place
from agr.utils.hashing import digest, slug


@dataclass(frozen=True)
class Cell:
    """A checked config and what follows from it."""

    config: Config
    overrides: tuple[str, ...] = ()  # of the command line that it was composed from

    @property
    def suite(self) -> Suite:
        """Suite of images and networks."""
        return self.config.suite

    @property
    def sources(self) -> list[str]:
        """Networks that the attack is crafted on: one, or the members of an ensemble."""
        source = self.config.source
        return [source] if isinstance(source, str) else list(source)

    @property
    def source(self) -> str:
        """Name of the source; an ensemble's is "inc_v3+inc_v4"."""
        return "+".join(self.sources)

    def white_box(self, target: str) -> bool:
        """True if the attack is crafted on this target, by whatever name.

        A defended network is another one.
        """
        return any(self.same(target, source) for source in self.sources)

    def same(self, a: str, b: str) -> bool:
        """True if two names are one network behind the same defenses."""
        known, (one, two) = self.suite.networks, (self._parts_of(name) for name in (a, b))
        return one[1] == two[1] and same_network(known[one[0]], known[two[0]])

    def bare(self, name: str) -> str:
        """Name of a network without its defenses."""
        return undefended(name, self.config.defenses)[0]

    def _parts_of(self, name: str) -> tuple[str, list[Any]]:
        """Split a name into that of the network and the configs of its defenses."""
        bare, defenses = undefended(name, self.config.defenses)
        return bare, [without_place(self.config.defenses[d]) for d in defenses]

    @property
    def bare_sources(self) -> list[str]:
        """Networks of the sources, without their defenses."""
        return list(dict.fromkeys(map(self.bare, self.sources)))

    @property
    def group_name(self) -> str | None:
        """The suite's name for the group of the first source; None if it belongs to none."""
        groups = self.suite.groups.items()
        first = self.bare_sources[0]
        return next((name for name, g in groups if first in g.networks), None)

    @cached_property
    def group(self) -> Group:
        """Group of the first source, with the other sources.

        A network that belongs to no group of the suite is a group of its own, in its own geometry.
        """
        first, name = self.sources[0], self.group_name
        alone = Group([first], self.suite.networks[self.bare(first)].geometry)
        base = alone if name is None else self.suite.groups[name]
        return Group(list(dict.fromkeys([*base.networks, *self.sources])), base.geometry)

    @property
    def geometry(self) -> Geometry:
        """Geometry of the adversarial images."""
        return self.group.geometry

    @property
    def targets(self) -> list[str]:
        """Names of the scored networks; a defended one is "vgg16/jpeg75"."""
        return list(dict.fromkeys(self.config.targets or self.group.networks))

    @property
    def selecting(self) -> list[str]:
        """Networks that must classify an image correctly for it to be attacked."""
        chosen = {"none": [], "source": self.sources, "group": list(self.group.networks)}
        return chosen[self.config.select]

    def title(self, name: str) -> str:
        """Title of a target or the source, in tables and on screen."""
        if name == self.source and len(self.sources) > 1:
            return " + ".join(self.title(member) for member in self.sources)
        bare, defenses = undefended(name, self.config.defenses)
        return "/".join([self.suite.networks[bare].title or bare, *defenses])

    def family(self, target: str) -> str | None:
        """Family of a target's network (one of FAMILIES), None where it is unknown."""
        return self.suite.networks[self.bare(target)].family

    @property
    def networks(self) -> list[str]:
        """Names of all networks of the cell, without their defenses."""
        names = [*self.sources, *self.selecting, *self.targets]
        return list(dict.fromkeys(map(self.bare, names)))

    @property
    def classes(self) -> int:
        """Number of classes of the source, and with it of every network of the cell."""
        return self.suite.networks[self.bare_sources[0]].classes

    @property
    def image_classes(self) -> int | None:
        """Number of classes of the images; None where the config doesn't say it."""
        if not same_place(self.config.data.root, self.suite.root):
            return self.suite.classes
        known = {
            self.suite.networks[n].classes for g in self.suite.groups.values() for n in g.networks
        }
        return self.suite.classes or (known.pop() if len(known) == 1 else None)

    def network_digest(self, target: str) -> str:
        """Hash of a target's network and defense configs."""
        name, parts = self._parts_of(target)
        return digest([numbers_of(self.suite.networks[name]), *parts])

    @property
    def success(self) -> str:
        """Success criterion: "label", "changed" or "targeted"."""
        return self.config.success or ("targeted" if self.config.attack.targeted else "label")

    @property
    def shard(self) -> tuple[int, int]:
        """Shard (i, k): every k-th position of the selection, from the i-th (see `mine`)."""
        i, k = self.config.shard.split("/")
        return int(i), int(k)

    @property
    def whole(self) -> Cell:
        """The cell with all its images, however they are divided into shards."""
        return self._of_shard("0/1", self.overrides)

    def shards(self, k: int) -> list[Cell]:
        """Divide the cell's images into k shards."""
        names = [f"{i}/{k}" for i in range(k)]
        return [self._of_shard(name, (*self.overrides, f"shard={name}")) for name in names]

    def _of_shard(self, name: str, overrides: tuple[str, ...]) -> Cell:
        cell = Cell(replace(self.config, shard=name), overrides)
        # What is cached says nothing of shards, and takes longer to compute than to copy.
        vars(cell).update({k: v for k, v in vars(self).items() if k not in vars(cell)})
        return cell

    @property
    def saves(self) -> int:
        """Number of adversarial images to save, from the start of the selection."""
        kept, n = self.config.save_adversarials, self.config.n_images
        return n * kept if isinstance(kept, bool) else min(n, kept)

    @property
    def score_steps(self) -> list[int]:
        """Steps whose iterates are scored on every target, in their order; none beyond T."""
        return sorted(s for s in {*(self.config.score_steps or ())} if s <= self.config.steps)

    @property
    def library(self) -> dict[str, Any] | None:
        """Config of another library's attack (agr.attacks.library); None for a composed one."""
        return self.config.attack.library

    @property
    def composed(self) -> bool:
        """True if the attack is made of parts, whose cost is known before it runs."""
        return self.library is None and self.config.attack.images is None

    @property
    def smallest(self) -> bool:
        """True if the attack minimises the perturbation: eps then only decides about success.

        Other attacks stay within eps.
        """
        return self.library is not None and not self.library.get("budget", True)

    def mine(self, position: int) -> bool:
        """True if a position of the selection belongs to this run's shard.

        Chunks of a library's attack stay together.
        """
        i, k = self.shard
        return position // self.chunk % k == i

    @property
    def chunk(self) -> int:
        """Number of images whose results depend on each other: a library's batch, else 1."""
        return 1 if self.library is None else self.library.get("chunk", CHUNK)

    @property
    def eps_effective(self) -> float:
        """`eps` on the 0-255 scale, after the suite's rescaling of L2 budgets."""
        return self.config.eps * self.eps_scale

    @property
    def eps_scale(self) -> float:
        """Factor of the suite for budgets and step sizes of this norm."""
        reference = self.suite.l2_reference
        if self.config.norm.name != "l2" or reference is None:
            return 1.0
        return math.sqrt(3 * self.geometry.size**2 / reference)

    @cached_property
    def attack_hash(self) -> str:
        """Hash of the attack's parts and parameters (not of names, the budget or empty slots)."""
        parts = asdict(self.config.attack) | {"steps": self.config.steps}
        for name in GROUPS:  # their order counts
            parts[name] = [[k, part] for k, part in parts[name].items() if part is not None]
        if given := self.config.attack.images:
            parts["images"] = given.sha256  # wherever they are
        left_out = ("name", "title", "quantize")  # the last is a key of the config
        filled = {k: v for k, v in parts.items() if k not in left_out and v not in (None, [])}
        codes = map(code_of, self.foreign)
        return digest([filled, *codes] if self.foreign else filled)

    @cached_property
    def foreign(self) -> list[str]:
        """Packages that the user allows and whose parts the attack has."""
        named = {target.partition(".")[0] for target in targets_of(asdict(self.config.attack))}
        return sorted(named & {*self.config.allow})

    @cached_property
    def id(self) -> str:
        """Hash of everything that affects results (not of targets, device or sharding)."""
        names_of = {*self.sources, *self.selecting}
        networks = {n: numbers_of(self.suite.networks[self.bare(n)]) for n in names_of}
        defenses = {n: parts for n in names_of if (parts := self._parts_of(n)[1])}
        ensemble = {"ensemble": self.config.ensemble} if len(self.sources) > 1 else {}
        split = {"split": self.config.split} if self.config.split != "all" else {}
        eot = {"eot": self.config.eot, "defenses": defenses} if defenses else {}
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
                **split,
                **eot,
            }
        )

    @property
    def name(self) -> str:
        """Readable and unique name of the cell's folder."""
        c = self.config
        return f"{slug(c.attack.name)}-{c.norm.name}-{c.eps:g}-{slug(self.source)}-{self.id}"

    @property
    def suite_folder(self) -> Path:
        """Folder of everything that runs of the suite write."""
        return Path(self.config.outputs) / self.suite.name

    @property
    def folder(self) -> Path:
        """Folder of the cell's records."""
        return self.suite_folder / self.name

    @property
    def data_folder(self) -> Path:
        """Folder of the index of the images and of their decoded copies."""
        return self.suite_folder / "data"

    @property
    def attack_overrides(self) -> list[str]:
        """Overrides that change the attack from what its file says."""
        return [w for w in self.overrides if w.lstrip("+~").startswith("attack.")]

    def command(self) -> str:
        """The shell command that runs this cell."""
        return shell_command("-m", "agr.run", *self.overrides)
