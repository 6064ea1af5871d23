"""Draw clean image, perturbation and adversarial image of several attacks (the paper's Figure 1).

python scripts/make_picture.py out.png [key=value ...]

The words are those of runs with save_adversarials=true, for one source and norm:
attack=ifgsm,mifgsm,agr norm=linf source=inc_v3. Shown is the first image of the selection.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agr.compose import expand
from agr.config import Cell
from agr.data.stream import Pixels, load_image
from agr.errors import ConfigError
from agr.inputs import find_images
from agr.records import Records, image_of
from agr.run import script

ZOOM, MARGIN, LINE, GAIN = 3, 8, 18, 10


def main() -> None:
    """Draw one row per attack."""
    if len(sys.argv) < 2 or not sys.argv[1].endswith(".png"):
        raise ConfigError("give the picture's name first: make_picture.py out.png attack=agr …")
    cells = expand(sys.argv[2:])
    rows = [panel(cell) for cell in cells]
    width = max(row.width for row in rows)
    picture = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    for i, row in enumerate(rows):
        picture.paste(row, (0, sum(r.height for r in rows[:i])))
    picture.save(sys.argv[1])
    print("written:", sys.argv[1])


def panel(cell: Cell) -> Image.Image:
    """Clean image, perturbation and adversarial image of one cell, with what the source says."""
    records = Records(cell.folder)
    positions = records.positions("adversarials")
    if not positions:
        raise ConfigError(f"nothing is saved: {cell.command()} save_adversarials=true")
    ((saved,),) = records.saved_images({min(positions)})
    facts = next(r for r in records.table("rows").to_pylist() if r["position"] == min(positions))
    adversarial, clean = image_of(saved), clean_of(cell, facts["image_id"])
    noise = np.clip(127.5 + GAIN * (adversarial.astype(float) - clean), 0, 255).astype(np.uint8)
    steps = f"{facts['steps_used']} step{'s' * (facts['steps_used'] != 1)}"
    titles = [
        f"clean: class {facts['source_clean_pred']} ({facts['source_clean_conf']:.0%})",
        f"perturbation x{GAIN}: {100 * facts['rel_l2']:.1f} % of the image",
        f"{cell.config.attack.title}, {steps}: class {facts['source_adv_pred']} "
        f"({facts['source_adv_conf']:.0%})",
    ]
    return strip([clean, noise, adversarial], titles)


def clean_of(cell: Cell, image_id: str) -> Pixels:
    """The clean image as (H, W, 3), in the cell's geometry."""
    entries = find_images(cell).entries
    entry = next(e for e in entries if e.image_id == image_id)
    return load_image(entry, cell.geometry).transpose(1, 2, 0)


def strip(images: list[Pixels], titles: list[str]) -> Image.Image:
    """Enlarged images beside each other, a title above each."""
    side = images[0].shape[0] * ZOOM
    step = side + MARGIN
    sheet = Image.new("RGB", (step * len(images) + MARGIN, side + LINE + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        big = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(big, (MARGIN + i * step, LINE))
        draw.text((MARGIN + i * step, 2), title, fill="black", font=font)
    return sheet


if __name__ == "__main__":
    script(main, __doc__)
