"""Training of the demo suite's networks: one continuous run each, on one CPU core.

The schedule is a curriculum. The gratings of `scripts.demo.images` start strong and fade to the
strength of the validation images: with faint ones from the start the deep networks sit on a
plateau. For a while the images are lightly adversarial (Goodfellow et al. 2015, arXiv 1412.6572,
with the random start of Wong et al. 2020, arXiv 2001.03994), which is what brings the transfer
between networks into the range of the paper.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torchvision.transforms import Normalize

from agr.models.slim import slim
from scripts.demo import images as demo
from scripts.demo.recipes import RECIPES, Recipe
from scripts.demo.weights import fold_batch_norm, initialise_weights

BATCH = 64


class Data(NamedTuple):
    """Images of one size, (N, 3, S, S) bytes, and their labels (N,)."""

    images: Tensor
    labels: Tensor


def stack(images: Sequence[NDArray[np.uint8]], labels: Sequence[int], size: int) -> Data:
    """Stack images (H, W, 3), resized as the suite does it.

    Args:
        images: RGB bytes; those of another size than `size` px get Pillow's antialiased bilinear.
        labels: one per image.
        size: side of the result.
    """
    resized = [
        image if image.shape[:2] == (size, size)
        else np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        for image in images
    ]  # fmt: skip
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()
    return Data(pixels, torch.tensor(labels))


def _labels(count: int) -> list[int]:
    return [demo.label_of(i) for i in range(count)]


def training_data(size: int, count: int = demo.N_TRAIN) -> Data:
    """Make the training images, `size` px wide, without gratings."""
    images = [demo.base_image(demo.TRAIN_SEED, i) for i in range(count)]
    return stack(images, _labels(count), size)


def tuning_data(size: int, count: int = 500) -> Data:
    """Make whole images of the tuning seed: recipes were chosen, never trained, on them."""
    files = [demo.encode(demo.image(demo.TUNING_SEED, i)) for i in range(count)]
    return stack([demo.decode(file) for file in files], _labels(count), size)


def normalised(network: nn.Module, recipe: Recipe) -> nn.Module:
    """Put its normalisation before a network, which then takes images in [0, 1], (B, 3, S, S)."""
    return nn.Sequential(Normalize(*recipe.stats), network)


# --- Batches --------------------------------------------------------------------------------


def _moved(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Flip, transpose and roll each image at random; before the gratings, whose angle counts."""
    images = images.clone()
    for axis in (-1, -2):
        chosen = torch.from_numpy(rng.random(len(images)) < 0.5)
        images[chosen] = images[chosen].flip(axis)
    chosen = torch.from_numpy(rng.random(len(images)) < 0.5)
    images[chosen] = images[chosen].transpose(-1, -2)
    shifts = rng.integers(-6, 7, (len(images), 2)).tolist()
    return torch.stack([i.roll(s, (-1, -2)) for i, s in zip(images, shifts, strict=True)])


def _shrunk(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Shrink half of the images and enlarge them again, as scoring at another size does."""
    size, parts = images.shape[-1], []
    for part in images.split(BATCH // 4):
        if rng.random() < 0.5:
            small = round(size * rng.uniform(0.7, 1))
            for side in (small, size):
                part = F.interpolate(part, (side, side), mode="bilinear", antialias=True)
        parts.append(part)
    return torch.cat(parts)


def _batch(
    data: Data, chosen: Tensor, rng: np.random.Generator, amplitude: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Augmented images in [0, 1] with fresh gratings, (B, 3, S, S) channels_last, and labels."""
    images, labels = _moved(data.images[chosen], rng).float() / 255, data.labels[chosen]
    faint = demo.grating(labels.numpy(), rng, images.shape[-1], amplitude)
    images = _shrunk((images + torch.from_numpy(faint)).clamp(0, 1), rng)
    return images.contiguous(memory_format=torch.channels_last), labels


def _indices(count: int, steps: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """`steps` batches of indices that go through all images before any comes again."""
    epochs = math.ceil(steps * BATCH / count)
    order = np.concatenate([rng.permutation(count) for _ in range(epochs)])
    yield from torch.from_numpy(order[: steps * BATCH]).split(BATCH)


def _adversarial(
    model: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator, strongest: float
) -> Tensor:
    """One step of FGSM from a random start, each image with a budget of its own (Linf)."""
    budget = torch.from_numpy(rng.uniform(0, strongest / 255, (len(images), 1, 1, 1))).float()
    noise = torch.from_numpy(rng.uniform(-1, 1, images.shape).astype(np.float32))
    start = (images + budget * noise).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), labels), start)
    moved = start.detach() + 1.25 * budget * gradient.sign()
    return torch.clamp(torch.clamp(moved, images - budget, images + budget), 0, 1)


# --- Runs -----------------------------------------------------------------------------------


def _amplitude(recipe: Recipe, time: float) -> tuple[float, float]:
    """Range of the gratings' amplitude at `time` in [0, 1]: from strong to the shipped ones."""
    begin, end = recipe.fade
    faded = min(max((time - begin) / (end - begin), 0), 1)
    high = 0.12 ** (1 - faded) * demo.GRATING_AMPLITUDE[1] ** faded
    return high / 3, high


def _optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; vectors (biases and norms) don't decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Accuracy, in [0, 1], of a `model` that takes images in [0, 1]; in evaluation mode."""
    was_training = model.training
    model.eval()
    right = [
        (model(images.float() / 255).argmax(1) == labels).sum().item()
        for images, labels in zip(data.images.split(100), data.labels.split(100), strict=True)
    ]
    model.train(was_training)
    return sum(right) / len(data.labels)


@torch.no_grad()
def _settle_norms(model: nn.Module, data: Data, rng: np.random.Generator) -> None:
    """Estimate the batch norms' statistics again, on 16 clean batches of 100 images.

    Those of the run mix clean with adversarial images, and older weights.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    model.train()
    for chosen in torch.from_numpy(rng.permutation(len(data.labels))[:1600]).split(100):
        model(_batch(data, chosen, rng, demo.GRATING_AMPLITUDE)[0])
    model.eval()


def train(name: str, seed: int = 0) -> nn.Module:
    """Train one network of the demo, with its progress on standard error.

    Args:
        name: a key of `RECIPES`.
        seed: of the initial weights and the batches; each network's numbers are its own, so it
            comes out the same whether others are trained or not.

    Returns:
        The network (batch norm folded if the recipe says so), without normalisation.
    """
    recipe = RECIPES[name]
    data, tuning = training_data(recipe.size), tuning_data(recipe.size)
    stream = int.from_bytes(hashlib.sha256(f"{name} {seed}".encode()).digest()[:4])
    rng = np.random.default_rng(stream)
    torch.manual_seed(stream)
    network = _untrained(recipe)
    model = normalised(network, recipe).to(memory_format=torch.channels_last)
    _run(model, recipe, data, tuning, rng)
    _settle_norms(model, data, rng)
    print(f"{name}: {accuracy(model, tuning):.1%} right on the tuning images", file=sys.stderr)
    if recipe.batch_norm:
        assert recipe.width is not None
        plain = slim(recipe.architecture, recipe.width, len(demo.CLASSES))
        network = fold_batch_norm(network, plain)
    return network


def _untrained(recipe: Recipe) -> nn.Module:
    """Build a network with initial weights from torch's global generator."""
    architecture = f"{recipe.architecture}_bn" if recipe.batch_norm else recipe.architecture
    classes = len(demo.CLASSES)
    if recipe.width is None:
        network: nn.Module = timm.create_model(
            architecture, num_classes=classes, **recipe.arguments
        )
    else:
        network = slim(architecture, recipe.width, classes)
    if recipe.width is not None or not recipe.own_weights:
        initialise_weights(network)
    return network


def _run(
    model: nn.Module, recipe: Recipe, data: Data, tuning: Data, rng: np.random.Generator
) -> None:
    """Take all optimisation steps of a recipe, on `model` in place."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.05
    optimiser = _optimiser(model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.peak, recipe.steps, pct_start=recipe.warm_up
    )
    model.train()
    began = time.monotonic()
    for step, chosen in enumerate(_indices(len(data.labels), recipe.steps, rng)):
        now = step / recipe.steps
        images, labels = _batch(data, chosen, rng, _amplitude(recipe, now))
        if recipe.adversarial[0] < now < recipe.adversarial[1]:
            images = _adversarial(model, images, labels, rng, recipe.strongest)
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            right = accuracy(model, tuning)
            news = f"loss {loss.item():.3f}, {right:.1%}, {time.monotonic() - began:.0f} s"
            print(f"  {step + 1}: {news}", file=sys.stderr)


def save(network: nn.Module, path: str | Path) -> str:
    """Write a network's state dict as float16 safetensors, and return the file's SHA-256."""
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    content, path = serialise(state), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)  # save_file would make it readable for its owner only
    return hashlib.sha256(content).hexdigest()
