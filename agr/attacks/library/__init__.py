"""Attacks of foolbox, ART and torchattacks behind one call, checked before and afterwards.

For attacks that are no gradient iteration: Carlini & Wagner, DeepFool, DDN, saliency maps and
universal perturbations stay with the libraries that keep them. A part here says which attack of
which library is meant, and makes its failures honest: an image for which nothing was found comes
back as the clean image, a budget that a library broke is an error, and what is known to be wrong
in a library is refused with the way out.

`adapter` has the contract and what the parts share, `foolbox`, `art` and `torchattacks` what is
known of each library, `sources` where they come from, `isolation` what they can't touch, and
`grid` makes 8-bit images of smallest perturbations. The libraries are optional: each is imported
when an attack of it is first checked.
"""

from agr.attacks.library.adapter import TARGETS, Library
from agr.attacks.library.art import Art, Universal
from agr.attacks.library.foolbox import Foolbox
from agr.attacks.library.grid import on_grid
from agr.attacks.library.sources import DISTRIBUTIONS
from agr.attacks.library.torchattacks import Torchattacks

__all__ = [
    "DISTRIBUTIONS",
    "TARGETS",
    "Art",
    "Foolbox",
    "Library",
    "Torchattacks",
    "Universal",
    "on_grid",
]
