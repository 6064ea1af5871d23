"""Purifiers from files, and what such a file may not do."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agr.config.compose import expand
from agr.config.networks import undefended
from agr.evaluation.runner import run_cell
from agr.models.defended import DefendedNetwork
from agr.models.defenses import Purify
from agr.records.audit import check_records
from agr.utils.errors import ConfigError
from agr.utils.files import write_content
from tests.conftest import images
from tests.test_adaptive import network

SIDE = 64  # of the demo's images


class Blur(nn.Module):
    """Means of 3 x 3 pixels, at the border of those that are there."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def small() -> nn.Module:
    """A network of images of 12 px only."""
    body = nn.Linear(432, 432)
    nn.init.eye_(body.weight)
    nn.init.zeros_(body.bias)
    return nn.Sequential(nn.Flatten(), body, nn.Unflatten(1, (3, 12, 12)))


class Of(nn.Module):
    """A function as a network."""

    def __init__(self, f: Callable[[Tensor], Any]):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Any:
        return self.f(x)


def traced(path: Path, made: nn.Module | Callable[[Tensor], Any], side: int = 12) -> Path:
    body = made if isinstance(made, nn.Module) else Of(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(
            body.eval(), torch.rand(1, 3, side, side), check_trace=False, strict=False
        )
        torch.jit.save(program, str(path))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def purify(path: Path) -> Purify:
    return Purify(str(path), sha256(path))


def test_it_is_the_network_in_the_file(tmp_path: Path) -> None:
    part, x = purify(traced(tmp_path / "blur.pt", Blur())), images(3)
    part.trial(12)
    found = part(x, [0, 0, 0], 12)
    assert found.dtype == x.dtype
    assert torch.equal(found, Blur()(x.float()).double())
    assert torch.equal(part(x[1:2], [0], 12)[0], found[1])
    wide = images(1, size=20)  # traced at 12 px
    assert torch.equal(part(wide, [0], 12), Blur()(wide.float()).double())


def test_its_gradient_is_its_own(tmp_path: Path) -> None:
    plain, x = network(), images(2)
    defended = DefendedNetwork(plain, [purify(traced(tmp_path / "blur.pt", Blur()))])
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    (found,) = torch.autograd.grad(defended(leaf).square().sum(), leaf)
    (expected,) = torch.autograd.grad(plain(Blur()(other)).square().sum(), other)
    assert torch.allclose(found, expected, rtol=0, atol=1e-4)  # it works in float32
    assert float(found.abs().max()) > 1e-2


def test_no_image_is_changed_in_place(tmp_path: Path) -> None:
    part = purify(traced(tmp_path / "add.pt", lambda x: x.mul_(0.5)))
    x = images(2, dtype=torch.float32)
    before = x.clone()
    assert torch.equal(part(x, [0, 0], 12), before / 2)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("f", "text"),
    [
        (lambda x: x[:, :, ::2], r"makes \(1, 3, 6, 12\) of an image \(1, 3, 12, 12\)"),
        (lambda x: (x, x), "makes a tuple of an image"),
        (lambda x: x * 2 - 1, r"makes values in \[-[\d.]+, [\d.]+\] of an image in \[0, 1\]: wrap"),
        (lambda x: x * torch.nan, r"makes values in \[nan, nan\]"),
        (lambda x: x.reshape(1, 3, 144) @ torch.ones(144, 100), "makes .* of an image"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, f: Callable[[Tensor], Any], text: str) -> None:
    part = purify(traced(tmp_path / "odd.pt", f))
    with pytest.raises(ValueError, match=text):
        part.trial(12)


def test_one_size_only(tmp_path: Path) -> None:
    part = purify(traced(tmp_path / "fixed.pt", small()))
    part.trial(12)
    with pytest.raises(ValueError, match=r"doesn't take an image \(1, 3, 16, 16\)"):
        part.trial(16)


# ---- what a file may not do ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "operator"),
    [
        (lambda x: x + torch.rand_like(x), "aten::rand_like"),
        (
            lambda x: x + torch.from_file("/etc/hostname", size=1, dtype=torch.uint8),
            "aten::from_file",
        ),
    ],
)
def test_operators_that_are_not_a_purifiers(
    tmp_path: Path, f: Callable[[Tensor], Any], operator: str
) -> None:
    path = traced(tmp_path / "odd.pt", f)
    with pytest.raises(ValueError, match=f"has the operator {operator}, which a purifier may not"):
        purify(path)


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """A program with other code in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            content = old.read(info)
            is_code = re.search(r"/code/.*\.py$", info.filename)
            new.writestr(info.filename, change(content) if is_code else content)
    path.write_bytes(out.getvalue())
    return path


@pytest.mark.parametrize("alias", [False, True])
def test_code_that_writes_a_file(tmp_path: Path, alias: bool) -> None:
    """aten::save, by whatever name the code calls it."""
    victim = tmp_path / "victim"

    def change(code: bytes) -> bytes:
        call = b't = torch\n    t.save(x, "%s")' if alias else b'torch.save(x, "%s")'
        line = b"    %s\n    return" % (call % str(victim).encode())
        return code.replace(b"    return", line, 1)

    path = rewritten(traced(tmp_path / "p.pt", Blur()), change)
    with pytest.raises(ValueError, match="has the operator aten::save, which"):
        purify(path)
    assert not victim.exists()


def test_code_that_runs_on_loading(tmp_path: Path) -> None:
    def change(code: bytes) -> bytes:
        return code + b"\n  def __setstate__(self, x: Tensor) -> NoneType:\n    return None\n"

    path = rewritten(traced(tmp_path / "p.pt", Blur()), change)
    with pytest.raises(ValueError, match="it runs code while it is loaded"):
        purify(path)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    path, victim = tmp_path / "p.pt", tmp_path / "victim"

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return victim.touch, ()

    torch.save(Bad(), path)
    with pytest.raises(ValueError, match="is not a TorchScript program: there is no code in it"):
        purify(path)
    traced(tmp_path / "q.pt", Blur())
    out = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "q.pt") as old, zipfile.ZipFile(path) as bad:
        pickle = next(bad.read(i) for i in bad.namelist() if i.endswith("/data.pkl"))
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
            for info in old.infolist():
                is_data = info.filename.endswith("/data.pkl")
                new.writestr(info.filename, pickle if is_data else old.read(info))
    write_content(path, out.getvalue())
    with pytest.raises(ValueError, match="is not a TorchScript program"):
        purify(path)
    assert not victim.exists()


def test_an_exported_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    torch.export.save(torch.export.export(Blur(), (torch.rand(1, 3, 12, 12),)), path)
    with pytest.raises(ValueError, match=r"is not a TorchScript program.*torch\.jit\.trace"):
        purify(path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = traced(tmp_path / "p.pt", Blur())
    with pytest.raises(ValueError, match=r"has sha256 .* is expected: restore the file"):
        Purify(str(path), "0" * 64)


# ---- by name ------------------------------------------------------------------------------------


def test_names_with_slashes() -> None:
    known = ["jpeg75", "purify:/a/jpeg75", "purify:b/c.pt", "c.pt"]
    assert undefended("vgg16/purify:b/c.pt", known) == ("vgg16", ["purify:b/c.pt"])
    assert undefended("vgg16/jpeg75/purify:/a/jpeg75/jpeg75", known) == (
        "vgg16",
        ["jpeg75", "purify:/a/jpeg75", "jpeg75"],
    )
    assert undefended("tag:/d/c.pt", known) == ("tag:/d", ["c.pt"])  # a defense of that name
    assert undefended("hf/vgg16", known) == ("hf/vgg16", [])


def cell_words(tmp_path: Path, *words: str) -> list[str]:
    small = ["attack=mifgsm", "n_images=3", "steps=2", "slots=4", "progress=false", "threads=1"]
    return [*small, *words, f"outputs={tmp_path}/out"]


def test_a_run_with_purifiers(tmp_path: Path) -> None:
    path = traced(tmp_path / "blur.pt", Blur())
    name = f"vgg16/jpeg75/purify:{path}"
    words = [f"targets=[vgg16,{name},vgg16/purify:{path}/randpad]", "source=vgg16"]
    (cell,) = expand(cell_words(tmp_path, *words))
    records = run_cell(cell, lambda _: None)
    rows = records.read("rows", ["target", "adv_conf", "white_box"])
    assert rows.groupby("target")["adv_conf"].first().nunique() == 3
    assert rows[rows["white_box"]]["target"].unique().tolist() == ["vgg16"]
    run = records.run()
    assert run is not None
    assert cell.config.defenses[f"purify:{path}"]["sha256"] == sha256(path)
    assert not check_records(records).problems
    path.write_bytes(traced(tmp_path / "other.pt", lambda x: x * 0.5).read_bytes())
    with pytest.raises(ConfigError, match="changed since"):
        run_cell(expand(cell_words(tmp_path, *words, "n_images=4"))[0], lambda _: None)


def test_the_file_of_a_source_is_its_identity(tmp_path: Path) -> None:
    path = traced(tmp_path / "p.pt", Blur())
    words = cell_words(tmp_path, f"source=vgg16/purify:{path}", "eot=1")
    (cell,) = expand(words)
    rows = run_cell(cell, lambda _: None).read("rows", ["target", "white_box", "backwards"])
    white = rows[rows["white_box"]]
    assert white["target"].unique().tolist() == [f"vgg16/purify:{path}"]
    assert set(rows["backwards"]) == {2}
    path.write_bytes(traced(tmp_path / "other.pt", lambda x: x * 0.5).read_bytes())
    assert expand(words)[0].id != cell.id


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vgg16/purify:{0}/missing.pt", "there is no file .*missing.pt: correct the path"),
        (
            "vgg16/purify:{0}/small.pt",
            r"target vgg16/purify.*doesn't take an image \(1, 3, 64, 64\)",
        ),
        ("vgg16/purify:{0}/text.pt", r"text\.pt is not a TorchScript program"),
        ("vgg16/purify:{0}/blur.pt/jpeg76", "jpeg76|there is no file"),
        ("vgg16/randpad/purify:{0}/blur.pt", "network's own resize: put it last"),
        ("nothing/purify:{0}/blur.pt", "nothing"),
    ],
)
def test_wrong_names(tmp_path: Path, name: str, text: str) -> None:
    traced(tmp_path / "blur.pt", Blur())
    traced(tmp_path / "small.pt", small())
    (tmp_path / "text.pt").write_text("no program")
    words = cell_words(tmp_path, f"targets=[{name.format(tmp_path)}]", "source=vgg16")
    with pytest.raises(ConfigError, match=text):
        run_cell(expand(words)[0], lambda _: None)
