"""Attacks of torchattacks, with its known defects refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from agr.attacks.library.adapter import NEEDS_TARGET, Library, LibraryCall, RunSettings
from agr.attacks.library.sources import imported, of_name, parameters

PAIRS_BYTES = 2e9  # limit on the memory of a table of all pairs of an image's values
PAIR_BYTES = 32  # JSMA at its peak: an int64, five float32 and four bytes for each


@dataclass(frozen=True)
class Torchattacks(Library):
    """An attack of torchattacks (Kim, arXiv:2010.01950), in the dtype of the images.

    Arguments are those of `Foolbox`; `attack` is a class of `torchattacks`.
    """

    # Besides what is refused below:
    # - TIFGSM contains DI (diversity_prob=0.5) and has decay 0; VMIFGSM and VNIFGSM take N=5
    #   where the authors have 20; DIFGSM shrinks images where the authors enlarge them.
    # - DIFGSM, TIFGSM: one random size for the whole batch, so companions matter.
    # - An attack keeps a reference to its model for good (a mutable default): see `Face.let_go`.

    library = "torchattacks'"

    def _kind(self) -> type[Any]:
        library = imported("Torchattacks", "torchattacks")
        base = imported("Torchattacks", "torchattacks.attack").Attack
        return of_name(self.attack, library, base)

    def _given(self) -> set[str]:
        return {"model", "eps"} if self.budget else {"model"}

    def _fault(self, kind: type[Any], settings: RunSettings) -> str | None:
        if kind.__name__ == "CW":
            # Its change of variables is infinite there; the loss also takes the largest other
            # logit to be at least 0.
            return "never moves pixels that are 0 or 1: use foolbox' L2CarliniWagnerAttack"
        if kind.__name__ == "JSMA":
            if not settings.targeted:  # its default is (label + 1) % 10, whatever the classes
                return NEEDS_TARGET
            table = PAIR_BYTES * settings.values**2
            if table > PAIRS_BYTES:
                return (
                    f"needs {PAIR_BYTES} bytes for each pair of values of an image, here "
                    f"{table / 1e9:,.0f} GB of memory (more than {PAIRS_BYTES / 1e9:g}): use "
                    "ART's SaliencyMapMethod"
                )
        if self.budget and "eps" not in parameters(kind):
            return "takes no eps: set attack.library.budget=false"
        return None

    def _run(self, call: LibraryCall) -> Tensor:
        arguments = self.arguments | ({"eps": call.ball.eps} if self.budget else {})
        attack = self._kind()(call.face, **arguments)
        if call.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        images: Tensor = attack(call.x, call.y)
        return images
