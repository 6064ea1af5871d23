"""Views that scale an image, mix another one in, or leave it as it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agr.attacks.draws import fold, integers
from agr.attacks.parts import Context, Copy
from agr.utils.checks import LIMIT, Checked, number, one_of, whole

LEVEL = {"grey": 0.5, "black": 0.0}


@dataclass(frozen=True)
class Scale(Checked):
    """SI: copy i is the image over 2^i, i = 0, 1, ... (Lin et al., arXiv:1908.06281).

    The gradient goes through the scaling. The authors scale towards grey.
    """

    copies: int = whole(5, 1, 64)  # the next is a level over 2^64
    zero: str = one_of("grey", LEVEL)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        level = LEVEL[self.zero]
        return Copy(x if i == 0 else (x - level) / 2**i + level, 1 / self.copies)


@dataclass(frozen=True)
class Draws(Checked):
    """EOT: the image itself, each copy before a new draw of a random defense of the source.

    Expectation over transformation (Athalye et al., ICML 2018, arXiv:1802.00420, section 4.2; its
    name and first use: arXiv:1707.07397). Draws are new for each image, step and copy. Without
    such a source (`eot` puts this view before one) all copies are alike.
    """

    copies: int = whole(10, 1, LIMIT)

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        return Copy(x, 1 / self.copies, fold(c.key, i))


@dataclass(frozen=True)
class Admix(Checked):
    """Copies with a fraction of another image mixed in: x + eta * x'.

    Admix (Wang et al., arXiv:2102.00436). Partners come from the attack's fixed pool of `pool`
    images: a new one for each image, step and copy, never of the image's own class. The authors
    apply `Scale` afterwards, and mix relative to grey.
    """

    copies: int = whole(3, 1, LIMIT)
    eta: float = number(0.2, 0)
    zero: str = one_of("grey", LEVEL)
    pool: int = whole(64, 2, LIMIT)
    other_classes = True

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        partner = self.partner(i, c)
        if partner.shape != x.shape:
            raise ValueError(f"Admix of {x.shape[-1]} px: put it before what resizes images")
        return Copy(x + self.eta * (partner - LEVEL[self.zero]), 1 / self.copies)

    def partner(self, i: int, c: Context) -> Tensor:
        """Draw the images (B, 3, H, W) that are mixed into copy `i`."""
        assert c.pool is not None  # `Attack` checks it
        pool = c.pool.first(self.pool)
        others = pool.labels != c.label[:, None]
        rank = integers(fold(c.key, i), 0, others.sum(1)) + 1
        return pool.images[((others.cumsum(1) == rank[:, None]) & others).int().argmax(1)]


def check_square(x: Tensor) -> None:
    """Raise ValueError unless the images `x` (B, 3, H, W) are square."""
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"images are {x.shape[-2]} x {x.shape[-1]} px: this attack takes square ones"
        )
