"""Attacks of foolbox, ART and torchattacks behind one call, checked before and afterwards.

For attacks that aren't a gradient iteration: Carlini & Wagner, DeepFool, DDN, saliency maps and
universal perturbations are left to the libraries that maintain them. A part here names an attack of
a library and makes its failures visible: an image for which nothing was found comes back as the
clean image, a budget that a library broke is an error, and what is known to be wrong in a library
is refused with the way out.

`adapter` has the contract and the shared code, `foolbox`, `art` and `torchattacks` have a part for
each library, `sources` imports them, `isolation` protects the process and the model from them, and
`batches` runs them and makes smallest perturbations 8-bit. The libraries are optional: each is
imported when an attack of it is first checked.
"""

from agr.attacks.library.adapter import Library
from agr.attacks.library.art import Art, Universal
from agr.attacks.library.foolbox import Foolbox
from agr.attacks.library.sources import DISTRIBUTIONS
from agr.attacks.library.torchattacks import Torchattacks

__all__ = ["DISTRIBUTIONS", "Art", "Foolbox", "Library", "Torchattacks", "Universal"]
