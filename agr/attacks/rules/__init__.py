"""Rules: changes to modules of the source while gradients are taken."""

from agr.attacks.rules.activations import LinearReLU as LinearReLU
from agr.attacks.rules.activations import SmoothReLU as SmoothReLU
from agr.attacks.rules.activations import SoftMaxPool as SoftMaxPool
from agr.attacks.rules.features import FeatureDiversity as FeatureDiversity
from agr.attacks.rules.features import PerturbationDecay as PerturbationDecay
from agr.attacks.rules.head import Angle as Angle
from agr.attacks.rules.mixing import Mixup as Mixup
from agr.attacks.rules.mixing import TunedMixup as TunedMixup
from agr.attacks.rules.residual import Ghost as Ghost
from agr.attacks.rules.residual import SkipGradient as SkipGradient
from agr.attacks.rules.transformers import ConstantAttention as ConstantAttention
from agr.attacks.rules.transformers import Regularize as Regularize
from agr.attacks.rules.transformers import Tune as Tune
