"""Purifiers: any network from images to images, in a TorchScript file, that runs no other code.

TorchScript and not torch.export: a file of the latter may hold pickles, expressions that SymPy
evaluates as Python, and calls of any function of torch, all of which torch.export.load follows. A
TorchScript file is read by torch's own parser and unpickler, which know operators and tensors only;
which operators it has is looked at before any of them runs.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from agr.utils.checks import Checked
from agr.utils.errors import first_line

SLACK = 0.1  # beyond [0, 1], of what a purifier makes of noise: it is clamped, more is a mistake
# What begins a method that runs while a file is loaded.
ON_LOADING = re.compile(rb"__setstate__|__getstate__|__torch_script_class")
ATEN = """
    _convolution _convolution_mode conv1d conv2d conv_transpose2d linear addmm matmul mm bmm baddbmm
    einsum batch_norm instance_norm group_norm layer_norm scaled_dot_product_attention
    relu leaky_relu prelu elu selu celu gelu silu mish softplus hardtanh hardswish hardsigmoid relu6
    sigmoid tanh softmax log_softmax add sub rsub mul div floor_divide remainder neg pow sqrt rsqrt
    square exp log abs sign sin cos erf round floor ceil clamp clamp_min clamp_max minimum maximum
    mean sum std var amax amin max min norm lerp where masked_fill eq ne lt le gt ge __and__ __or__
    __not__ __is__ __isnot__ __getitem__ __contains__ len append dim size numel format warn
    permute transpose t reshape view flatten unflatten contiguous cat stack chunk split
    split_with_sizes tensor_split unbind slice select narrow index unsqueeze squeeze expand
    expand_as repeat roll flip pad reflection_pad2d replication_pad2d constant_pad_nd im2col col2im
    upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa grid_sampler affine_grid_generator avg_pool2d max_pool2d
    adaptive_avg_pool2d adaptive_max_pool2d pixel_shuffle pixel_unshuffle channel_shuffle dropout
    dropout2d feature_dropout alpha_dropout to type_as clone detach zeros ones full zeros_like
    ones_like full_like arange tensor Int Float Bool IntImplicit FloatImplicit ScalarImplicit
    fft_rfft2 fft_irfft2 fft_fft2 fft_ifft2 real imag complex
"""
PRIM = """
    Constant GetAttr ListConstruct ListUnpack TupleConstruct TupleUnpack TupleIndex If Loop
    NumToTensor RaiseException unchecked_cast Uninitialized ConstantChunk device dtype min max
    is_cuda data
"""
ALLOWED = {f"aten::{name}" for name in ATEN.split()} | {f"prim::{name}" for name in PRIM.split()}


@dataclass(frozen=True)
class Purify(Checked):
    """A network from images (B, 3, H, W) in [0, 1] to such images, before the network that answers.

    `file` is a TorchScript program, `sha256` what it must be (`vgg16/purify:FILE` fills in both).
    It works in float32 and gets one image at a time, so that an image's result can't depend on
    others and a program that was traced with one image will do; what it makes is clamped to [0, 1].
    Its gradient is its own.

    Raises ValueError for a file that is another one, no program, or has other operators than
    ALLOWED.
    """

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    file: str
    sha256: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _program(self.file, self.sha256, "cpu")

    def __call__(self, x: Tensor, keys: Sequence[int], size: int) -> Tensor:
        """Purify the images one by one. Raises ValueError for a result of another shape."""
        return torch.stack([self._one(image) for image in x]).clamp(0, 1).to(x.dtype)

    def trial(self, side: int) -> None:
        """Purify noise of `side` px, twice.

        Raises ValueError where the result isn't an image, or another one each time.
        """
        noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            first, second = self._one(noise), self._one(noise)
        low, high = float(first.min()), float(first.max())
        if not (low >= -SLACK and high <= 1 + SLACK):
            raise ValueError(
                f"{self.file} makes values in [{low:.3g}, {high:.3g}] of an image in [0, 1]: wrap "
                "it so that it takes and gives that range"
            )
        if not torch.equal(first, second):
            raise ValueError(
                f"{self.file} makes another image each time: save it in evaluation mode, without "
                "random operators"
            )

    def _one(self, image: Tensor) -> Tensor:
        try:
            # Unoptimised: else the first calls differ from later ones in the last bits.
            with torch.jit.optimized_execution(False):
                program = _program(self.file, self.sha256, str(image.device))
                made = program.forward(image[None].float().clone())
        except (RuntimeError, torch.jit.Error) as e:
            if isinstance(e, torch.OutOfMemoryError) or "allocate memory" in str(e):
                raise
            shape, why = tuple(image[None].shape), str(e).strip().splitlines()[-1:]
            raise ValueError(
                f"{self.file} doesn't take an image {shape}: {' '.join(why)[:200]}"
            ) from e
        if not isinstance(made, Tensor) or made.shape != image[None].shape:
            what = tuple(made.shape) if isinstance(made, Tensor) else f"a {type(made).__name__}"
            raise ValueError(
                f"{self.file} makes {what} of an image {tuple(image[None].shape)}: it must return "
                "an image of the same size"
            )
        return made[0]


@lru_cache(maxsize=8)
def _program(file: str, sha256: str, device: str) -> Any:
    """Load a TorchScript program onto a device. Raises ValueError."""
    try:
        content = Path(file).expanduser().read_bytes()
    except (OSError, RuntimeError) as e:
        raise ValueError(f"{file} can't be read: {first_line(e)}") from e
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(
            f"{file} has sha256 {found[:12]}…, and {sha256[:12]}… is expected: restore the file"
        )
    program, why = _loaded(content, device)
    if program is None:
        raise ValueError(
            f"{file} is not a TorchScript program: {why[:200]}: make it with "
            "torch.jit.trace(network.eval(), image).save(FILE)"
        )
    if foreign := sorted({*_kinds(program.forward.inlined_graph)} - ALLOWED):
        raise ValueError(f"{file} has the operator {foreign[0]}, which a purifier may not have")
    for parameter in program.parameters():
        parameter.requires_grad_(False)
    return program.eval()


def _loaded(content: bytes, device: str) -> tuple[Any, str]:
    """Return the program in a file, of which nothing has run, or None and the reason why not."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            codes = [i for i in archive.namelist() if re.search(r"/code/.*\.py$", i)]
            loads = any(ON_LOADING.search(archive.read(i)) for i in codes)
        if not codes or loads:
            return None, "it runs code while it is loaded" if loads else "there is no code in it"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated; nothing else reads such files
            program = torch.jit.load(BytesIO(content), map_location=device)
        _ = program.forward.inlined_graph
    except (
        zipfile.BadZipFile,
        RuntimeError,
        ValueError,
        AttributeError,
        LookupError,
        OSError,
    ) as e:
        return None, first_line(e)
    return program, ""


def _kinds(graph: Any) -> Iterator[str]:
    """Yield the kinds of all nodes of a graph or block; operators in place count as others."""
    for node in graph.nodes():
        kind = node.kind()
        yield kind if kind.endswith("__") else kind.removesuffix("_")
        for block in node.blocks():
            yield from _kinds(block)
