"""Attacks of foolbox, with its known defects refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from agr.attacks.library.adapter import Library, LibraryCall, RunSettings
from agr.attacks.library.sources import imported, of_name
from agr.utils.errors import first_line


@dataclass(frozen=True)
class Foolbox(Library):
    """An attack of foolbox (Rauber et al., JOSS 2020), in the dtype of the images.

    Args:
        attack: a class of `foolbox.attacks`.
        arguments: those of its constructor.
        budget: call it with the ball's eps, else without one.
        chunk: images per call.
        target: one of `TARGETS`, where an untargeted run aims, for attacks that need a target.
        most_values: refuse images of more values (3 * H * W); None for no limit.
    """

    # Besides what is refused below:
    # - L2CarliniWagnerAttack and EADAttack return an all-zero image where they find nothing, and
    #   abort_early looks at the loss of the whole batch: with it, companions matter.
    # - The L1 and L2 MomentumIterativeFastGradientMethod accumulate gradients of unit length in
    #   their own norm, where Dong et al. always divide by the L1 norm.
    # - DeepFool's steps go on accumulating for images that are done, without effect.

    library = "foolbox'"

    def _kind(self) -> type[Any]:
        attacks = imported("Foolbox", "foolbox").attacks
        return of_name(self.attack, attacks, attacks.Attack)

    def _fault(self, kind: type[Any], settings: RunSettings) -> str | None:
        name = kind.__name__  # MIFGSM and others are second names
        if name == "LinfMomentumIterativeFastGradientMethod":
            return "accumulates signs of gradients, which is not MI-FGSM: use attack=mifgsm"
        if name == "L2FMNAttack":
            # its project() scales by minimum(1, norms / norms)
            return "never projects onto its ball, since it divides a norm by itself: use DDNAttack"
        if settings.targeted and name in ("L2DeepFoolAttack", "LinfDeepFoolAttack"):
            return "goes to the nearest other class, never to a wanted one: use it untargeted"
        if not self.budget:
            if issubclass(kind, imported("Foolbox", "foolbox").attacks.base.FixedEpsilonAttack):
                return "only works within a budget: set attack.library.budget=true"
            return None
        try:
            attack = kind(**self.arguments)
        except (TypeError, ValueError, AssertionError, NotImplementedError) as e:
            return f"can't be made: {first_line(e)}"
        try:
            own = attack.distance.p
        except (AttributeError, ValueError):
            return "has no norm of its own, so it can't keep a budget"
        if own != settings.ball.p:
            norm = type(settings.ball).__name__.lower()
            return f"is an attack in L{own:g}: it can't keep a budget in {norm}"
        return None

    def _run(self, call: LibraryCall) -> Tensor:
        library = imported("Foolbox", "foolbox")
        model = library.PyTorchModel(call.face, bounds=(0, 1), device=call.x.device)
        criteria = library.criteria
        goal = criteria.TargetedMisclassification if call.targeted else criteria.Misclassification
        eps = call.ball.eps if self.budget else None
        attack = self._kind()(**self.arguments)
        clipped: Tensor = attack(model, call.x, goal(call.y), epsilons=[eps])[1][0]
        return clipped
