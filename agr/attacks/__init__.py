"""Attacks. `Attack` puts parts together; `agr.attacks.contracts` says what parts are."""

from agr.attacks.attack import Attack as Attack
from agr.attacks.ball import L2 as L2
from agr.attacks.ball import Linf as Linf
from agr.attacks.loss import CrossEntropy as CrossEntropy
from agr.attacks.parts import Pool as Pool
from agr.attacks.stages import MeanNormalize as MeanNormalize
from agr.attacks.stages import Momentum as Momentum
from agr.attacks.step import AdaGrad as AdaGrad
from agr.attacks.step import Overwrite as Overwrite
from agr.attacks.step import Plain as Plain
from agr.attacks.stop import OnceFooled as OnceFooled
