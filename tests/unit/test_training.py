"""What training changes, and that an export answers as its checkpoint."""

from __future__ import annotations

import signal
from pathlib import Path

import lightning
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from litmeter.errors import ModelError
from litmeter.inference.card import CARD_NAME, WEIGHTS_NAME, read_card
from litmeter.inference.model import model_of
from litmeter.params import load_params
from litmeter.paths import ModelFolders
from litmeter.stages.export import check_equal
from litmeter.training.fit import interruptible
from litmeter.training.module import ClassifierModule, freeze_first_layers
from tests.support.project import ROOT


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_tiny", "resnet18", "test_vit"])
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
    model = model_of(card)
    model.load_state_dict(load_file(exported.exported / WEIGHTS_NAME))
    monkeypatch.setattr("litmeter.stages.export.MODEL", ModelFolders(tmp_path, tmp_path / "compiled"))
    weights = load_file(exported.exported / WEIGHTS_NAME)
    save_file(weights, tmp_path / WEIGHTS_NAME)
    check_equal(model, card)
    weights["conv_stem.weight"] = weights["conv_stem.weight"] * 1.001
    save_file(weights, tmp_path / WEIGHTS_NAME)
    with pytest.raises(ModelError, match="answers otherwise"):
        check_equal(model, card)
    assert not (tmp_path / CARD_NAME).exists()
