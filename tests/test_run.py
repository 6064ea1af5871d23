"""The command as a user meets it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agr.records.store import Records
from agr.run import main
from tests.conftest import assert_same_bits, called, demo_cell
from tests.forked import run

QUICK = ["source=vgg16", "n_images=12", "slots=8", "threads=1", "attack=ifgsm_stop"]


def say(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["agr", *words])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return called(main, capsys)


WRONG = {
    "attack=agrr": "did you mean agr",
    "attack=mifgms": "did you mean mifgsm",
    "norm=l1": "known: l2, linf",
    "suite=demmo": "did you mean demo",
    "source=inc_v5": "did you mean inc_v",
    "targets=[vgg16,vgg91]": "target vgg91 is unknown: did you mean vgg19",
    "epss=3": "epss is not a key of the config: did you mean eps",
    "+epss=3": "epss is not a key of the config: did you mean eps",
    "attack.chain.momentun.decay=3": "attack.chain.momentun is not a key",
    "+attack.stop.patience=3": "attack.stop: ",
    "+suite.groups.inception.geometry.sise=3": "suite.groups.inception.geometry.sise is not a key",
    "eps=-1": "eps=-1.0 is not a budget",
    "eps=abc": "eps=abc: give a number",
    "eps=nan": "eps=nan is not a budget",
    "eps=inf": "eps=inf is not a budget",
    "eps=0.03": "eps=0.03 is below one level",
    "eps=256": "beyond the linf bound 255",
    "steps=0": "steps=0 is too small",
    "steps=1.5": "steps=1.5: give a whole number",
    "n_images=0": "n_images=0 is too small",
    "slots=0": "slots=0 is too small",
    "shard=3/3": "shard=3/3 is not a shard",
    "shard=three": "shard=three is not a shard",
    "select=al": "select=al is unknown: known: group, none, source",
    "success=targeted": "needs a targeted attack",
    "success=labels": "did you mean label",
    "quantize=never": "known: always, end, off",
    "denominator=corect": "did you mean",
    "precision=fp16": "did you mean",
    "attack.size=fast": "attack.size=fast is not a step size",
    "attack.size=-2": "attack.size=-2 is not a step size",
    "attack.step._target_=os.system": "it must name a part of agr.attacks",
    "attack.step.direction=up": "direction=up",
    "device=cuda:77": "device=cuda:77 is not there",
    "suite.root=/nowhere": "data.root=/nowhere is not there",
    "data.root=": "set data.root=",
    "suite=imagenet": "IMAGENET_DIR",
    "data.labels=/nowhere": "/nowhere",
    "ensemble=mean": "ensemble=mean is unknown: known: logits, losses",
    "source=[inc_v3,inc_v3]": "an ensemble is a list of different networks",
    "source=[]": "an ensemble is a list of different networks",
    "source=[inc_v3,inc_v5]": "source=inc_v5 is unknown: did you mean inc_v",
    "source=vgg16/jpeg75": "needs eot=1",
    "targets=[resnet18]": "different numbers of classes",
    "targets=[vgg16/jpg75]": "jpg75 is not a defense: did you mean jpeg75",
    "suite.groups.inception.geometry.mode=fit": "geometry.mode=fit is unknown",
    "suite.networks.vgg16.arguments.depth=3": "arguments",
    "check.image=3": "check.image is not a key",
    "check.images=0": "check.images=0",
    "check.seconds=-1": "check.seconds=-1",
    "targets=[vgg16/randpad/jpeg75]": "target vgg16/randpad/jpeg75: RandomResizePad replaces",
    "targets=[vgg16/randpad/randpad10]": "put it last",
    "suite.networks.inc_v4.weights=/nowhere": "network inc_v4: there is no weight file /nowhere",
    "outputs=/proc/nowhere": "outputs=/proc/nowhere cannot be written",
    "eps=[": "eps=[ cannot be read: write key=value, a list as [a,b] without spaces",
    "eps": "eps cannot be read: write key=value",
    "data.root=~/x": "quotes inside for other signs",
    "source=resnet19": "did you mean resnet1",
    "source=/a/net.safetensors": "say which network of timm it is, TAG:FILE",
    "source=zzz": "is unknown: known: inc_v3, inc_v4, ir_v2, vgg16, vgg19, res152, res50,",
    "eps=2,4": "Ambiguous value for argument 'eps=2,4': to sweep over its values put -m first",
    "experiment=papr": "did you mean paper",
    "targets={a:b}": "write targets=[vgg16,vgg19]",
    "targets=[]": "names no network",
    "outputs=": "names no folder",
    "attack.step.phi=0": "phi=0 cannot be",
    "attack.step.delta=-2": "delta=-2 cannot be",
    "attack.stop._target_=agr.attacks.step.Plain": "it must name a part of agr.attacks.stop",
    "suite.groups.inception.geometry.interpolation=nearest": "interpolation=nearest is unknown",
    "suite.groups.inception.geometry.crop=0": "crop=0.0 cannot be",
    "suite.groups.inception.geometry.size=0": "size=0 crop=1.0 cannot be",
    "suite.groups.inception.networks=[inc_v3,foo]": "suite.groups.inception names foo",
    "suite.groups.inception.sources=[vgg16]": "suite.groups.inception names vgg16: known: inc_v3",
    "suite.networks.inc_v3.mean=[0.5]": "give three",
    "suite.networks.inc_v3.resize=lanczos": "resize=lanczos is unknown",
    "suite.l2_reference=0": "is not a number of values",
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_input_is_one_line_before_any_model_loads(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*args, **kwargs):
        raise AssertionError("a network was loaded")

    monkeypatch.setattr("agr.models.network.load_body", never)
    monkeypatch.chdir(tmp_path)
    code, _, err = say([word], monkeypatch, capsys)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert WRONG[word] in err
    assert not list(tmp_path.glob("outputs/demo/*/rows*"))


TOO_MANY = {
    "values in a word": (
        f"seed={','.join(map(str, range(2001)))}", "lists 2,001 values, and a word holds at most",
    ),
    "targets in a word": (
        f"targets=[{'vgg16,' * 3000}vgg16]", "lists 3,001 values, and a word holds at most 2,000",
    ),
    "targets": (
        f"targets=[{'vgg16,' * 1000}vgg16]", "names 1,001 networks, and a run scores at most 1,000",
    ),
    "defenses": (
        f"targets=[vgg16{'/jpeg75' * 17}]", "stands behind more than 16 defenses: take some away",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MANY)
def test_lists_are_bounded(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    word, words = TOO_MANY[name]
    code, _, err = say([word], monkeypatch, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert words in err


def test_one_wrong_cell_stops_a_sweep_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", f"outputs={tmp_path}", "eps=2,4,-8", *QUICK]
    code, out, err = say(words, monkeypatch, capsys)
    assert code == 2
    assert err == "error: eps=-8.0 is not a budget: give a number that is 0 or more\n"
    assert "VGG" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_weight_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not weights")
    words = [f"suite.networks.vgg16.weights={path}", "suite.networks.vgg16.sha256=null"]
    words += ["progress=false"]
    code, _, err = say([f"outputs={tmp_path}", *QUICK, *words], monkeypatch, capsys)
    assert code == 2
    assert err.startswith(f"error: network vgg16: {path} holds no weights of vgg16")
    assert err.count("\n") == 1


def test_a_finished_cell_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"outputs={tmp_path}", *QUICK, "progress=false"]
    code, first, err = say(words, monkeypatch, capsys)
    assert (code, err) == (0, "")
    for part in ("demo suite: stand-in networks", "VGG16 *", "VGG19", "Res152", "records: "):
        assert part in first

    def never(*args, **kwargs):
        raise AssertionError("it was run again")

    monkeypatch.setattr("agr.evaluation.runner.run_cell", never)
    code, second, _ = say(words, monkeypatch, capsys)
    assert code == 0
    assert "finished before" in second
    assert second.split("ASR %")[1] == first.split("ASR %")[1]


@pytest.mark.slow
def test_a_lower_precision_is_compared_even_if_it_was_stopped_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"outputs={tmp_path}", *QUICK, "attack=fgsm", "precision=bf16", "progress=false"]
    _, out, _ = say(words, monkeypatch, capsys)
    assert "bf16 against fp32 on 12 images" in out
    (folder,) = tmp_path.glob("demo/fgsm-*")
    Records(folder).update_run(lambda run: setattr(run, "against_fp32", None))
    code, out, _ = say(words, monkeypatch, capsys)
    assert code == 0
    assert "finished before" in out
    assert "bf16 against fp32 on 12 images" in out


@pytest.mark.slow
def test_a_sweep_in_one_process_builds_each_network_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import agr.evaluation.predictions
    import agr.models.network

    monkeypatch.setattr(agr.models.network, "_loaded", {})
    built, scored = [], []
    real_body, real_answers = (
        agr.models.network.load_body,
        agr.evaluation.predictions.predict_batched,
    )
    monkeypatch.setattr(
        agr.models.network, "load_body", lambda name, c: built.append(name) or real_body(name, c)
    )
    monkeypatch.setattr(
        agr.evaluation.predictions,
        "predict_batched",
        lambda n, i, w: scored.append(len(i)) or real_answers(n, i, w),
    )
    words = ["-m", f"outputs={tmp_path}", *QUICK, "eps=2,8", "attack=ifgsm_stop,agr"]
    code, out, _ = say([*words, "progress=false"], monkeypatch, capsys)
    assert code == 0
    assert "[4/4]" in out
    assert sorted(built) == ["res152", "vgg16", "vgg19"]
    assert len(list(tmp_path.glob("demo/*/_about/run.json"))) == 4
    assert len(list(tmp_path.glob("demo/clean/*.parquet"))) == 3
    adversarial = 4 * 12 * 2  # the source said it while it was attacked
    assert 0 < sum(scored) - adversarial < 3 * 2 * 4 * 8  # clean answers for the first cell only


@pytest.mark.parametrize("word", ["--help", "--cfg"])
def test_help_needs_neither_torch_nor_timm(word: str) -> None:
    code = (
        "import sys, runpy; sys.argv = ['agr', *%r]\n"
        "try: runpy.run_module('agr.run', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules"
    ) % ([word] if word == "--help" else ["--cfg", "job"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "source" in done.stdout


def command(outputs: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "agr.run", *words, f"outputs={outputs}", "progress=false"]


@pytest.mark.slow
def test_the_cluster_launcher_runs_a_sweep(tmp_path: Path) -> None:
    """submitit's local executor: one process per cell, the same config otherwise as Slurm's."""
    words = ["-m", "hydra/launcher=local", *QUICK, "eps=2,8", "attack=agr"]
    subprocess.run(command(tmp_path, *words), check=True, capture_output=True, timeout=300)
    cells = [demo_cell(tmp_path, *QUICK, f"eps={eps}", "attack=agr") for eps in (2, 8)]
    for cell in cells:
        assert len(Records(cell.folder).read("rows")) == 12 * 3


@pytest.mark.slow
def test_processes_share_a_cell_by_shards(tmp_path: Path) -> None:
    words = [*QUICK, "attack=agr"]
    shards = ["-m", "hydra/launcher=local", "shard=0/2,1/2"]
    subprocess.run(
        command(tmp_path / "two", *shards, *words), check=True, capture_output=True, timeout=300
    )
    one = run([*words, f"outputs={tmp_path / 'one'}", "progress=false"])
    assert one.returncode == 0, one.stderr
    two, one = (
        Records(demo_cell(tmp_path / name, *words).folder)
        .read("rows").sort_values(["position", "target"]).reset_index(drop=True)
        for name in ("two", "one")
    )  # fmt: skip
    assert len(one) == 12 * 3
    assert_same_bits(two, one)


def test_slurm_is_configured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--cfg", "hydra", "hydra/launcher=slurm"]
    code, out, err = say(words, monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert "SlurmLauncher" in out
    assert "max_num_timeout: 3" in out


def test_a_config_is_shown_of_the_words_that_a_run_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = say(["--cfg", "job", "targets=vgg16", "allow=torch"], monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert "targets:\n- vgg16\n" in out
    assert "allow:\n- torch\n" in out


def test_a_machine_without_slurm_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    code, _, err = say(["-m", "hydra/launcher=slurm", "eps=2,4"], monkeypatch, capsys)
    assert code == 2
    assert err.startswith("error: hydra/launcher=slurm: there is no srun here")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("defenses.jpeg75.quality=0", "defenses.jpeg75: "),
        ("defenses.jpeg75.qualty=50", "defenses.jpeg75.qualty is not a key"),
        ("defenses.jpeg75._target_=os.system", "it must name a part of agr.models.defenses"),
    ],
)
def test_a_wrong_defense_is_one_line(
    word: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*QUICK, f"outputs={tmp_path}", "targets=[vgg16/jpeg75]", word]
    code, _, err = say(words, monkeypatch, capsys)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert reason in err


@pytest.mark.slow
def test_a_suite_of_ones_own_needs_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first network is the default, and the paper's experiment takes all of its groups."""
    from agr.config.compose import expand

    (tmp_path / "suite").mkdir()
    groups = "groups: {g: {networks: [b, a], geometry: {size: 64}}}"
    one = "{tag: resnet18.tv_in1k}"
    text = f"name: own\nroot: x\n{groups}\nnetworks: {{a: {one}, b: {one}}}"
    (tmp_path / "suite" / "own.yaml").write_text(text)
    words = [f"hydra.searchpath=[{tmp_path}]", "suite=own"]
    assert expand(words)[0].source == "b"
    assert {c.source for c in expand([*words, "experiment=paper"])} == {"a", "b"}
    assert expand(words)[0].title("a") == "a"
    code, _, err = say(["-m", *words, "experiment=paper"], monkeypatch, capsys)
    assert (code, err) == (
        2,
        "error: data.root=x is not there: give the folder or tar of the images\n",
    )


@pytest.mark.slow
def test_what_is_unusual_of_a_cell_is_on_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"outputs={tmp_path}", *QUICK, "progress=false", "n_images=4"]
    _, plain, _ = say(words, monkeypatch, capsys)
    _, other, _ = say(
        [*words, "attack.targeted=true", "source=[vgg16,vgg19]", "ensemble=losses", "seed=3"],
        monkeypatch,
        capsys,
    )
    assert "seed" not in plain
    assert "targeted: success is the wanted label, mean of losses, seed=3" in other
    assert "on VGG16 + VGG19, linf" in other


def test_a_finished_cell_is_shown_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from agr.config.compose import expand

    weights = Path(expand([])[0].suite.networks["vgg16"].weights)
    shutil.copy(weights, tmp_path / weights.name)
    word = f"suite.networks.vgg16.weights={tmp_path / weights.name}"
    words = [f"outputs={tmp_path}", *QUICK, "progress=false", "n_images=4", word]
    assert say(words, monkeypatch, capsys)[0] == 0
    (tmp_path / weights.name).unlink()
    code, out, _ = say(words, monkeypatch, capsys)
    assert code == 0
    assert "not compared with its images and weights: network vgg16: there is no weight" in out
    assert "VGG16 *" in out
