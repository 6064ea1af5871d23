"""Rules: changes to modules of the source while gradients are taken (`agr.attacks.parts.Rule`)."""

from agr.attacks.rules.head import Angle as Angle
from agr.attacks.rules.mixing import Mixup as Mixup
from agr.attacks.rules.mixing import TunedMixup as TunedMixup
