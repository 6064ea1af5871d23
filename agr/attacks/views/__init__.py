"""Views: differentiable copies of an image whose gradients are averaged, for transfer.

Zero isn't the same everywhere: scaling, padding and mixing go towards grey where authors work in
[-1, 1], and towards black in ports that work in [0, 1]. `zero` chooses; each view's default is its
authors' own.
"""

from agr.attacks.views.blocks import Shuffle as Shuffle
from agr.attacks.views.blocks import Structure as Structure
from agr.attacks.views.copies import Admix as Admix
from agr.attacks.views.copies import Draws as Draws
from agr.attacks.views.copies import Scale as Scale
from agr.attacks.views.operators import Operators as Operators
from agr.attacks.views.patches import PatchOut as PatchOut
from agr.attacks.views.patches import SelfPaced as SelfPaced
from agr.attacks.views.resized import Diverse as Diverse
from agr.attacks.views.resized import DiversityEnsemble as DiversityEnsemble
from agr.attacks.views.spectrum import Spectrum as Spectrum
from agr.attacks.views.warp import Warp as Warp
