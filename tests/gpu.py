"""A CPU that passes for a GPU and tells what a host would wait for.

    with Gpu() as gpu:
        ...            # networks and images count as on the GPU
    gpu.waits          # where the host would have stood still, by function

Everything counts as the device's but what the host makes for itself: arrays, numbers without a
`device=`, what is copied to it, and whatever is computed of these alone. A tensor of the host says
"cpu" as its device, any other "cuda:0", so that code which asks takes the way of a GPU.

It sees: what is asked of Python (`.item()`, `bool()`, `.tolist()`, `.cpu()`, numbers and lists that
become tensors of the device or index one) and of operators whose result has a shape that depends
on values (boolean masks, `nonzero`, `unique`), also in hooks and backward passes; and an operator
that mixes the two sides, which a GPU refuses. It can't see: what an operator does inside, as one
without a deterministic form or a library that waits for itself; memory that runs out; and whether
kernels take as long to start as to run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
COPIED = (torch.tensor, torch.as_tensor, torch.from_numpy)
READ = (Tensor.tolist, Tensor.numpy, Tensor.__array__, torch.equal, torch.allclose)
SHAPED = {
    f"aten::{name}"
    for name in (
        *("nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "bincount"),
        *("is_nonzero", "equal", "masked_scatter", "argwhere", "_local_scalar_dense"),
    )
}


class Gpu(TorchFunctionMode):
    """The CPU as a GPU: see above."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []  # functions of agr in which the host waits
        self.total = 0
        self.inner = ExitStack()

    def __enter__(self) -> Gpu:
        for name, stand_in in (
            ("Event", lambda: _Event(self)),
            ("Stream", Stream),
            ("current_stream", Stream),
            ("stream", lambda stream: nullcontext()),
            ("CUDAGraph", Recording),
            ("graph", recorded),
        ):
            self.inner.enter_context(patch(f"torch.cuda.{name}", stand_in))
        self.inner.enter_context(_Operators(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.inner.close()

    def note(self) -> None:
        """Note a wait, by the function of agr that has it."""
        frame = sys._getframe(1)
        while not str(frame.f_globals.get("__name__")).startswith("agr."):
            assert frame.f_back is not None, "a wait outside of agr"
            frame = frame.f_back
        self.waits.append(frame.f_code.co_qualname)
        self.total += 1

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [*leaves((args, kwargs))]
        tensors = [t for t in given if isinstance(t, Tensor)]
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return CPU if of_host(args[0]) else CUDA
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return not of_host(args[0])
        asked = [d for d in given if isinstance(d, torch.device)]
        asked += [CPU for d in given if isinstance(d, str) and d == "cpu"]
        if asked:
            args = [CPU if isinstance(a, torch.device) else a for a in args]
            kwargs = {k: CPU if isinstance(v, torch.device) else v for k, v in kwargs.items()}
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            to = {Tensor.cpu: [CPU], Tensor.cuda: [CUDA]}.get(func, asked)
            return self._moved(func, args, kwargs, to[0] if to else None)
        if func == Tensor.pin_memory:
            return marked(args[0].clone(), host=True, pinned=True)
        if func in READ and not of_host(args[0]):
            self.note()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and not of_host(args[0]):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(not isinstance(i, Tensor) and hasattr(i, "__len__") for i in index):
                self.note()  # a list becomes a tensor of the host
        host = bool(tensors) and all(map(of_host, tensors))
        if not tensors:
            host = CUDA not in asked
            if func in COPIED and not host:
                self.note()
        elif not host:
            sides = [t for t in tensors if of_host(t) and t.dim() > 0]
            assert not sides or func in COPIED, f"{func} mixes the host's tensors with the device's"
            if func == Tensor.new_tensor:
                self.note()
        made = func(*args, **kwargs)
        if host:
            for t in leaves(made):
                if isinstance(t, Tensor):
                    marked(t, host=True)
        return made

    def _moved(self, func: Any, args: Any, kwargs: Any, to: torch.device | None) -> Any:
        """Copy from one side to the other, or change the dtype on one."""
        own, waits = args[0], not kwargs.get("non_blocking", False)
        target = to or (CPU if of_host(own) else CUDA)
        made = func(*args, **kwargs)
        crosses = of_host(own) != (target == CPU)
        if crosses:
            made = made.clone() if made is own else made
            if waits or (of_host(own) and not getattr(own, "pinned", False)):
                self.note()
        return marked(made, host=target == CPU)


class _Event:
    """An event of a GPU: after another wait nobody waits for it."""

    def __init__(self, gpu: Gpu):
        self.gpu, self.before = gpu, 0

    def record(self, stream: Any) -> None:
        self.before = self.gpu.total

    def synchronize(self) -> None:
        if self.gpu.total == self.before:
            self.gpu.note()


class _Operators(TorchDispatchMode):
    """The operators that a GPU's host waits for."""

    def __init__(self, gpu: Gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if not all(of_host(t) for t in leaves(args) if isinstance(t, Tensor)):
            masks = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
                t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]
            )
            repeats = name == "aten::repeat_interleave" and func._overloadname != "self_int"
            if name in SHAPED or masks or repeats:
                self.gpu.note()
        return func(*args, **(kwargs or {}))


def leaves(values: Any) -> Iterator[Any]:
    """Yield what is in tuples, lists and dicts."""
    if isinstance(values, tuple | list | dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from leaves(value)
    else:
        yield values


def of_host(t: Tensor) -> bool:
    """Return whether a tensor is the host's own."""
    return getattr(t, "host", False)


def marked(t: Tensor, **marks: bool) -> Tensor:
    """Mark a tensor."""
    for name, value in marks.items():
        setattr(t, name, value)
    return t


class Recording(TorchDispatchMode):
    """A `torch.cuda.CUDAGraph` of the stand-in: operators, run again on the same memory.

    As in a graph, no Python runs in a replay: what a pass takes from there stays as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, made))
        return made

    def pool(self) -> str:
        return "pool"

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, made in self.steps:
                for old, new in zip(leaves(made), leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


@contextmanager
def recorded(graph: Recording, pool: Any, stream: Any, mode: str) -> Iterator[None]:
    """Stand for `torch.cuda.graph`."""
    assert stream.waited, "warm-ups have to run on the stream before"
    with graph:
        yield


class Stream:
    """Stands for `torch.cuda.Stream`."""

    def __init__(self, device: Any = None):
        self.waited = False

    def wait_stream(self, stream: Stream) -> None:
        self.waited = True
