"""Rules: changes to modules of the source while gradients are taken (`agr.attacks.parts.Rule`)."""

from agr.attacks.rules.activations import LinearBackward as LinearBackward
from agr.attacks.rules.activations import SmoothActivations as SmoothActivations
from agr.attacks.rules.activations import SoftMaxPool as SoftMaxPool
from agr.attacks.rules.residual import SkipGradient as SkipGradient
