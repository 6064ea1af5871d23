"""Rules: changes to modules of the source while gradients are taken (`agr.attacks.parts.Rule`)."""

from agr.attacks.rules.activations import LinearReLU as LinearReLU
from agr.attacks.rules.activations import SmoothReLU as SmoothReLU
from agr.attacks.rules.activations import SoftMaxPool as SoftMaxPool
from agr.attacks.rules.features import FeatureDiversity as FeatureDiversity
from agr.attacks.rules.features import PerturbationDecay as PerturbationDecay
from agr.attacks.rules.residual import DropoutErosion as DropoutErosion
from agr.attacks.rules.residual import SkipErosion as SkipErosion
from agr.attacks.rules.residual import SkipGradient as SkipGradient
from agr.attacks.rules.transformers import ConstantAttention as ConstantAttention
from agr.attacks.rules.transformers import Regularize as Regularize
from agr.attacks.rules.transformers import Tune as Tune
