"""Hints for what people write who come from another program."""

from __future__ import annotations

from pathlib import Path

import pytest

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
        ("source=ResNet-50", "did you mean resnet50?"),
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
        ("targets=[vgg61]", "did you mean vgg19 or vgg16"),
        ("targets=vgg61", "did you mean vgg19 or vgg16"),
    ],
)
def test_the_way_out_is_named(word: str, hint: str) -> None:
    with pytest.raises(ConfigError) as e:
        expand([word])
    assert hint in str(e.value)


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
