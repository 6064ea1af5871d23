"""Attacks of ART, with its known defects refused, and its universal perturbation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from agr.attacks.library.adapter import NEEDS_TARGET, Library, LibraryCall, RunSettings
from agr.attacks.library.sources import imported, of_name, parameters
from agr.config.schema import MOST_IMAGES
from agr.utils.checks import whole
from agr.utils.errors import nearest

EVASION = "art.attacks.evasion"
# Parameters that the run sets, besides eps and norm.
GIVEN = {"targeted", "verbose", "batch_size", "classifier", "estimator", "summary_writer"}

# The last universal perturbation of each model, with what it was fitted on.
_fits: WeakKeyDictionary[nn.Module, tuple[str, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Art(Library):
    """An attack of ART, the adversarial robustness toolbox (Nicolae et al., arXiv:1807.01069).

    Arguments are those of `Foolbox`; `attack` is a class of `art.attacks.evasion`. ART computes in
    float32: images of float64 are rounded for it, though the network sees float64.
    """

    # Besides what is refused below:
    # - SaliencyMapMethod takes the two values with the largest derivative of the target's logit.
    #   Papernot et al. take the pair with the largest product of that and of the others' decline
    #   (their Eq. 10): this is JSMA without the second factor.
    # - DeepFool's overshoot `epsilon` is 1e-6 where the authors have 0.02.

    library = "ART's"

    def _kind(self) -> type[Any]:
        base = imported("Art", "art.attacks.attack").EvasionAttack
        return of_name(self.attack, imported("Art", EVASION), base)

    def _given(self) -> set[str]:
        return GIVEN | {"eps", "norm"} if self.budget else GIVEN

    def _fault(self, kind: type[Any], settings: RunSettings) -> str | None:
        known, name = parameters(kind), kind.__name__
        if name == "UniversalPerturbation":
            return "would be fitted on the images that it attacks: use library.Universal"
        if name == "SaliencyMapMethod" and not settings.targeted:
            return NEEDS_TARGET
        if settings.targeted and "targeted" not in known and name != "SaliencyMapMethod":
            return "has no targeted form"
        if self.budget and "eps" not in known:
            return "takes no eps: set attack.library.budget=false"
        return _too_few_classes(self.arguments, settings.classes) if name == "DeepFool" else None

    def _made(self, call: LibraryCall, **own: Any) -> Any:
        """Make ART's attack for a call, with further arguments."""
        classifier = imported("Art", "art.estimators.classification").PyTorchClassifier(
            call.face,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(call.x.shape[1:]),
            nb_classes=call.classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if call.x.is_cuda else "cpu",
        )
        own |= {"targeted": call.targeted, "verbose": False, "batch_size": self.chunk}
        if self.budget:
            own |= {"eps": call.ball.eps, "norm": call.ball.p}
        kind = self._kind()
        known = parameters(kind)
        return kind(classifier, **self.arguments | {k: v for k, v in own.items() if k in known})

    def _run(self, call: LibraryCall) -> Tensor:
        x = call.x.float()
        made = self._made(call).generate(x=_array(x), y=_array(call.y))
        found = torch.from_numpy(made).to(x.device)
        # Values that it left alone are those of the image, not rounded to float32.
        return torch.where(found == x, call.x, found.to(call.x.dtype))


@dataclass(frozen=True)
class Universal(Art):
    """One perturbation for all images: ART's UniversalPerturbation, fitted on other images.

    It is fitted to change the model's own predictions for `fit` (as in Moosavi-Dezfooli et al.,
    arXiv:1610.08401), once for each model, budget, seed and set of images, and added to all images.

    Args:
        arguments: those of ART's constructor: `attacker`, `attacker_params`, `delta`, `max_iter`.
            `nb_grads` of DeepFool is the number of classes, since ART is wrong with fewer.
        fit_images: number of images that it is fitted on.
        chunk: images per call.
    """

    # ART takes a new perturbation from an image that was clipped to [0, 1], so where that image
    # is black or white, half of the perturbation's directions are lost; the authors clip nothing.

    attack: str = field(init=False, default="UniversalPerturbation")
    budget: bool = field(init=False, default=True)  # it is always as large as allowed
    target: str | None = field(init=False, default=None)
    most_values: int | None = field(init=False, default=None)
    fit_images: int = whole(100, 1, MOST_IMAGES["fit_images"])

    def _fault(self, kind: type[Any], settings: RunSettings) -> str | None:
        if settings.targeted:
            return "has no targeted form"
        attacker = self._attacker()
        if attacker not in kind.attacks_dict:
            return f"knows no attacker={attacker}: {nearest(attacker, kind.attacks_dict)}"
        given = self.arguments.get("attacker_params") or {}
        if attacker != "deepfool" or "nb_grads" not in given:
            return None
        fault = _too_few_classes(given, settings.classes)
        return fault and f"with deepfool {fault}"

    def _attacker(self) -> str:
        return str(self.arguments.get("attacker", "deepfool"))

    def _run(self, call: LibraryCall) -> Tensor:
        x, fit = call.x, call.fit
        if fit is None or not len(fit) or fit.shape[1:] != x.shape[1:]:
            raise ValueError(f"it is fitted on other images: give fit, {self.fit_images} like x")
        # A model's fit is the same for all of its chunks: `isolated` starts each from the seed.
        hashed = hashlib.sha256(_array(fit).tobytes()).hexdigest()
        key = repr((self, call.ball, call.classes, torch.initial_seed(), fit.dtype, hashed))
        model = call.face.behind[0]
        known = _fits.get(model)
        if known is None or known[0] != key:
            _fits[model] = known = key, self._fit(call, fit.float())
        return (x + known[1].to(x)).clamp(0, 1)

    def _fit(self, call: LibraryCall, fit: Tensor) -> Tensor:
        """Fit the perturbation (1, 3, H, W), float32."""
        kind, attacker = self._kind(), self._attacker()
        inner: dict[str, Any] = {"nb_grads": call.classes} if attacker == "deepfool" else {}
        if "verbose" in kind._get_class(kind.attacks_dict[attacker]).attack_params:
            inner["verbose"] = False
        inner |= self.arguments.get("attacker_params") or {}
        attack = self._made(call, attacker=attacker, attacker_params=inner)
        attack.generate(x=_array(fit))
        return torch.from_numpy(attack.noise)


def _too_few_classes(arguments: dict[str, Any], classes: int) -> str | None:
    """Return what is wrong with DeepFool's `nb_grads`, if it is below the number of classes."""
    # With fewer, ART subtracts logits of some classes from those of others.
    nb_grads = arguments.get("nb_grads", 10)
    if nb_grads >= classes:
        return None
    return f"is wrong with nb_grads={nb_grads} of {classes} classes: set nb_grads={classes}"


def _array(x: Tensor) -> Any:
    return x.detach().cpu().contiguous().numpy()
