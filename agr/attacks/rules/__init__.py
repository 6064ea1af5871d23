"""Rules: changes to modules of the source while gradients are taken (`agr.attacks.parts.Rule`)."""

from agr.attacks.rules.transformers import ConstantAttention as ConstantAttention
from agr.attacks.rules.transformers import Regularize as Regularize
from agr.attacks.rules.transformers import Tune as Tune
