"""Hints for what people write who come from another program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

from agr.config.compose import expand
from agr.utils.errors import ConfigError, nearest


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("attack=MIFGSM", "attack=MIFGSM is unknown: did you mean mifgsm?"),
        ("attack=MI-FGSM", "did you mean mifgsm?"),
        ("attack=I_FGSM", "did you mean ifgsm?"),
        ("attack=AGR", "did you mean agr?"),
        ("source=VGG16", "did you mean vgg16?"),
        ("source=Inc-v3", "did you mean inc_v3?"),
        ("source=ResNet-50", "did you mean res50?"),
        ("norm=L2", "did you mean l2?"),
        ("norm=L_inf", "did you mean linf?"),
        ("norm=inf", "norm=inf chooses no file: write norm=linf or l2"),
        ("norm=2", "write norm=linf or l2"),
        ("eps=8/255", "sizes are on the 0-255 scale, 8 and not 8/255"),
        ("attack=my/attack/x.yaml", "attack=x --config-dir=my, with the file in my/attack/x.yaml"),
        ("attack=mine/x.yaml", "attack=x --config-dir=mine, with the file in mine/attack/x.yaml"),
        ("suite=/data/suite/own.yml", "suite=own --config-dir=/data, with the file in"),
        (
            "attack.momentum=0.5",
            "here it is attack.chain.momentum.decay, of an attack that has mom",
        ),
        ("attack.alpha=2", "here it is attack.size"),
        ("epsilon=8", "here it is eps, on the 0-255 scale"),
        ("attack.num_steps=5", "here it is steps"),
        ("batch_size=64", "here it is slots"),
        ("model=vgg16", "here it is source"),
        ("num_images=5", "here it is n_images"),
        ("source=adv_inception_v3", "it is called inception_v3.tf_adv_in1k now"),
        ("source=ens_adv_inception_resnet_v2", "called inception_resnet_v2.tf_ens_adv_in1k now"),
        ("source=vit_base_patch16_224_in21k", "it is called vit_base_patch16_224.augreg_in21k now"),
        ("source=Adv_Inception_V3", "it is called inception_v3.tf_adv_in1k now"),
        ("source=adv-inception-v3", "it is called inception_v3.tf_adv_in1k now"),
        ("source=timm/ADV_inception_v3", "it is called inception_v3.tf_adv_in1k now"),
        ("source=adv_inception_v3.tf_in1k", "it is called inception_v3.tf_adv_in1k now"),
        ("targets=[TV-ResNet50.in1k]", "it is called resnet50.tv_in1k now"),
        ("source=adv_inception_resnet_v2", "did you mean inception_resnet_v2.tf_ens_adv_in1k?"),
        (
            "source=my_net:w.pth",
            "an architecture of an allowed package goes into a suite (docs/net",
        ),
        ("attack.eps=8", "here it is eps"),
        ("+attack.eps=8", "here it is eps"),
        ("attack.norm=l2", "here it is norm"),
        ("norm.seed=1", "here it is seed"),
        ("targeted=true", "here it is attack.targeted"),
        ("attack.smooth=1", "here it is attack.chain.smooth"),
        ("diverse=1", "here it is attack.views.diverse"),
        ("cache=true", "here it is data.cache"),
        ("outdir=x", "here it is outputs"),
        ("save=true", "here it is save_adversarials"),
        ("+suite.networks.vgg16.arch=x", "did you mean architecture?"),
        ("save_adversarials=all", "give true, false or a number"),
        ("save_adversarials=1.5", "give true, false or a number"),
        ("quantize=true", "known: always, end, off"),
        ("targets=[vgg61]", "did you mean vgg19 or vgg16"),
        ("targets=vgg61", "did you mean vgg19 or vgg16"),
    ],
)
def test_the_way_out_is_named(word: str, hint: str) -> None:
    with pytest.raises(ConfigError) as e:
        expand([word])
    assert hint in str(e.value)


DEFENDED = {"inc_v3_adv", "ir_v2_ens", *timm.list_pretrained("*_adv_in1k")}
UNDEFENDED = {*timm.list_models(), *timm.list_pretrained(), "inc_v3", "inc_v4", "ir_v2"} - DEFENDED


@pytest.mark.parametrize(
    "name",
    ["inc_v3_ens3", "Inc-v3ens4", "IncRes-v2ens", "ens3_adv_inception_v3", "ens4_adv_inception_v3",
     "tf_inception_v3_adv", "inception_v3.tf_adv", "timm/inception_v3.adv_in1k", "resnet50_robust",
     "robust-vgg16", "resnet50.advtrain", "adv_vgg16:w.pth", "inc_v3_advv"],
)  # fmt: skip
@pytest.mark.parametrize(
    "key", ["source={}", "targets=[{}]", "suite.groups.inception.networks=[{}]"]
)
def test_a_defended_network_is_never_answered_with_an_undefended_one(name: str, key: str) -> None:
    with pytest.raises(ConfigError) as e:
        expand(["suite=imagenet", "source=vgg16", key.format(name)])
    hint = {*re.findall(r"[\w.:]+", str(e.value).rpartition(": ")[2])}
    assert not hint & UNDEFENDED
    assert hint & (DEFENDED | {"TAG:FILE"})


@pytest.mark.parametrize("key", ["quantize", "attack.quantize"])
def test_off_may_be_false(key: str, tmp_path: Path) -> None:
    """YAML reads `off` as false."""
    (tmp_path / "experiment").mkdir()
    group, _, name = key.rpartition(".")
    text = f"{group}: {{{name}: off}}" if group else f"{name}: off"
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    (off,) = expand(["quantize=off"])
    for words in ([f"{key}=false"], [f"hydra.searchpath=[{tmp_path}]", "experiment=mine"]):
        (cell,) = expand(words)
        assert cell.config.quantize == "off"
        assert cell.id == off.id


@pytest.mark.parametrize("name", ["vgg16", "vgg16/jpeg75", "resnet18.a1_in1k"])
def test_a_single_target_is_a_list_of_one(name: str) -> None:
    words = ["source=vgg16", "suite=imagenet"]
    (one,) = expand([*words, f"targets={name}"])
    assert one.targets == [name]
    assert one.id == expand([*words, f"targets=[{name}]"])[0].id
    assert expand([*words, "targets=null"])[0].targets == ["vgg16", "vgg19", "res152"]


def test_names_are_compared_without_capitals_and_marks() -> None:
    assert nearest("ABC d", ["ab-cd", "abcde"]) == "did you mean ab-cd?"
    assert nearest("abcd", ["abcde", "xyz"]) == "did you mean abcde?"


def test_a_wrong_key_of_a_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    text = "defaults: [demo]\nnetworks:\n  own: {tag: resnet18.a1_in1k, clases: 10}\n"
    (tmp_path / "suite" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"clases.*did you mean"):
        expand([f"hydra.searchpath=[{tmp_path}]", "suite=mine"])
