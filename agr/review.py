"""Review an entry of a leaderboard without trusting it: claim, records, and a sample of its images.

python -m agr.review FOLDER [sample=FOLDER] [images=20] [suite=…] [data.root=…] [--config-dir=…]

One line per check: it holds, doesn't hold, or can't be checked here, and why. The records are
verified, and all that the claim says is computed from them again. The sample's images must be the
claimed ones, within the budget of the clean images, and get the recorded answers from the networks
at hand; those of an attack of agr's are crafted again, bit by bit; images that were passed over
must be ones that a selecting network misclassifies. images=n looks at n of each, 0 at no network.

Nothing in FOLDER is run: attacks and networks are our own of the same hash, or left out. Exits with
0 if nothing is false, 1 if something doesn't hold, 2 if the arguments are wrong. For example:

    python -m agr.review leaderboard/mi-fgsm sample=sample
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from agr.config.compose import expand
from agr.config.overrides import parse_pairs, without_flags
from agr.jobs.console import script
from agr.records.claim import CLAIM, entry_at
from agr.submission.checks import FALSE, HOLDS, UNKNOWN
from agr.submission.reviewing import reviewed
from agr.utils.errors import ConfigError, nearest
from agr.utils.text import plural, printable

OWN = ("sample", "images")
OURS = ("suite", "data.root", "data.labels", "--config-dir")  # overrides that a review takes


def main(arguments: Sequence[str]) -> None:
    """Print a line per check and the sum, and exit with 1 if something doesn't hold."""
    folders = [word for word in arguments if "=" not in word and word[:1] != "-"]
    pairs = [word for word in arguments if word not in folders]
    for key, equals, _ in (word.partition("=") for word in pairs):
        if not equals or key not in (*OWN, *OURS):
            way = f"write {key}=…" if key in OURS else nearest(key, (*OWN, *OURS))
            raise ConfigError(f"{key} is unknown: {way}")
    words = [word for word in pairs if word.partition("=")[0] in OURS]
    given = parse_pairs([word for word in pairs if word not in words])
    if len(folders) != 1:
        raise ConfigError(f"{' '.join(folders) or 'no folder'}: give one folder of an entry")
    images, folder = given.get("images", 20), Path(folders[0])
    if type(images) is not int or images < 0:
        raise ConfigError(f"images={images} is not a number of images: give 0 or more")
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: give that of an entry, made by agr submit")
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CLAIM}"))
    if inner and not (folder / CLAIM).exists():
        one = shlex.quote(str(folder / inner[0]))
        raise ConfigError(f"{folder} holds {len(inner)} entries: review one at a time, as {one}")
    if (entry := entry_at(folder)) not in (None, folder.resolve()):
        raise ConfigError(f"{folder} lies in the entry {entry}: give that")
    sample = Path(str(given["sample"])).expanduser() if given.get("sample") else None
    if sample and not sample.is_dir():
        raise ConfigError(f"sample={sample} is not a folder: give that of the sample's images")
    if sample and any(sample.glob("*.png")) and not any(map(Path.is_dir, sample.iterdir())):
        raise ConfigError(
            f"sample={sample} holds images itself: give the folder around it, with one per cell"
        )
    words = without_flags(words)
    if words:  # folders and suites that aren't there show before anything is checked
        expand(words)
    verdicts: Counter[str] = Counter()
    for each in reviewed(folder, sample, images, words):
        print(each, flush=True)
        verdicts[each.verdict] += 1
    counts = (
        f"{verdicts[HOLDS]} right, {verdicts[FALSE]} wrong, {verdicts[UNKNOWN]} can't be checked"
    )
    print(f"\n{printable(str(folder))}: {plural(verdicts.total(), 'check')}: {counts} here")
    if verdicts[FALSE]:
        raise SystemExit(1)


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
