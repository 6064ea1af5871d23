"""Stages: transformations of the gradient before the step."""

from agr.attacks.stages.basic import Distance as Distance
from agr.attacks.stages.basic import MeanNormalize as MeanNormalize
from agr.attacks.stages.basic import Momentum as Momentum
from agr.attacks.stages.basic import Smooth as Smooth
from agr.attacks.stages.basic import mean_normalized as mean_normalized
from agr.attacks.stages.flat import Flatten as Flatten
from agr.attacks.stages.flat import Reverse as Reverse
from agr.attacks.stages.learned import Learn as Learn
from agr.attacks.stages.paths import Collect as Collect
from agr.attacks.stages.paths import Integrate as Integrate
from agr.attacks.stages.points import Enhance as Enhance
from agr.attacks.stages.points import Penalize as Penalize
from agr.attacks.stages.points import Relate as Relate
from agr.attacks.stages.points import Variance as Variance
