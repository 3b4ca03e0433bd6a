"""A model of one's own: what is accepted, what a mistake is answered with, what it costs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from litmeter.classifier.ceilings import cost_of, traffic_of
from litmeter.classifier.data.index import Index, Photo
from litmeter.classifier.here import given_weights
from litmeter.classifier.model.card import WEIGHTS_NAME, ModelCard, sha256
from litmeter.classifier.model.model import check_shapes, input_config, load_model
from litmeter.classifier.model.own import files_of_factory
from litmeter.classifier.model.settings import ModelSettings
from litmeter.classifier.training.fit import freeze_first_layers
from litmeter.classifier.training.weights import classifier_parameters, pretrained_model
from litmeter.errors import ModelError, ParamsError
from litmeter.params import Params, load_params
from litmeter.stages.ceilings import Memory, precision_ceiling, theoretical_rows
from litmeter.stages.machine import check_params
from tests.support.own_models import PREPROCESS, SIZE, small_net, write_net, write_onnx
from tests.support.project import ROOT

CLASSES = ["cat", "dog"]
COMPILED = {"compiled": True, "preprocess": "torchvision"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder, whose modules are forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("net", "one", "plain", "plain.inner"):
        sys.modules.pop(name, None)


def params_of(model: dict[str, Any], **changes: Any) -> Params:
    """The project's params.yaml with another model, and sections or keys of them replaced."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content |= {
        "experiments": {"e1_baseline": COMPILED},
        "model": model,
        "data": {**content["data"], "folder": "."},
    }
    content["objective"]["configurations"] = ["candidate"]
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name:
            content[section][name] = value
        else:
            content[section] = value
    Path("params.yaml").write_text(yaml.safe_dump(content))
    return load_params(Path("params.yaml"))


def settings_of(**model: Any) -> ModelSettings:
    return ModelSettings.model_validate({"preprocess": PREPROCESS, **model})


FACTORY = {"factory": "net:make", "preprocess": PREPROCESS}
ONNX = {"onnx": "net.onnx", "preprocess": PREPROCESS}


VIT = {"name": "test_vit", "pretrained": "none", "image_size": 64}


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        ({}, {}, "model: got none of name, factory, onnx"),
        ({**FACTORY, "onnx": "net.onnx"}, {}, "model: got factory and onnx of name, factory, onnx"),
        ({"factory": "net:make"}, {}, "model: preprocess: missing; factory needs it"),
        ({"onnx": "net.onnx"}, {}, "model: preprocess: missing; onnx needs it"),
        ({**FACTORY, "factory": "net.py"}, {}, "model: factory ('net.py'): allowed: module:function"),
        ({**FACTORY, "pretrained": "none"}, {}, "model: pretrained ('none'): allowed with factory: "),
        ({**ONNX, "checkpoint": "a.ckpt"}, {}, "model: checkpoint ('a.ckpt'): allowed with onnx: "),
        ({**FACTORY, "classes": ["cat"]}, {}, "model: classes (cat): allowed: two or more, each once"),
        ({**FACTORY, "preprocess": {**PREPROCESS, "crop": 1.5}}, {}, "model.preprocess.crop: got 1.5; "),
        ({**FACTORY, "preprocess": {**PREPROCESS, "side": 1}}, {}, "model.preprocess.side: unknown key, "),
        (
            {**FACTORY, "preprocess": {**PREPROCESS, "std": [0.5, 0.5, 0]}},
            {},
            "model.preprocess.std.2: got 0; allowed: greater than 0",
        ),
        (ONNX, {}, "train: allowed with model.onnx: nothing"),
        (ONNX, {"train": None, "compile.batch_sizes": [2]}, "compile.batch_sizes: 1 is missing"),
        (
            ONNX,
            {"train": None, "serve.compiled": False},
            "serve.compiled: got False; allowed with model.onnx",
        ),
        (VIT, {"train": None}, "train: missing; it may be empty only with model.factory and model.onnx"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_write(
    model: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        params_of(model, **changes)
    assert str(caught.value).startswith(f"params.yaml: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        (FACTORY, {}, r"model\.factory: got 'net:make'; allowed: a module in .*; there is no net$"),
        ({**FACTORY, "factory": "deep.er.net:make"}, {}, r"there is no deep$"),
        (ONNX, {"train": None}, r"model\.onnx: got 'net\.onnx'; allowed: an existing file"),
    ],
)
def test_a_file_that_is_not_there_is_named(model: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        check_params(params_of(model, **changes))


def test_an_onnx_file_is_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("net.onnx").touch()
    params = params_of(ONNX, train=None)
    check_params(params)
    monkeypatch.setattr("litmeter.stages.machine.cuda_available", lambda: True)
    with pytest.raises(ParamsError, match=r"device: got 'auto', cuda here; allowed with model\.onnx: cpu"):
        check_params(params)


def test_another_content_of_a_factorys_files_is_another_model() -> None:
    """The module's file, or all files of its package, but for results of a run."""
    write_net(Path())
    Path("other.py").touch()
    assert files_of_factory("net:make") == [Path("net.py").absolute()]
    Path("plain/inner").mkdir(parents=True)
    Path("plain/inner/net.py").touch()
    assert files_of_factory("plain.inner.net:make") == [Path("plain/inner/net.py").absolute()]
    for name in ("__init__.py", "sub/net.py", "weights.pt", "exported/model.json", "__pycache__/net.pyc"):
        (path := Path("models") / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise AssertionError('it is run')")
    found = [str(path.relative_to(Path.cwd())) for path in files_of_factory("models.sub.net:make")]
    assert found == ["models/__init__.py", "models/sub/net.py", "models/weights.pt"]
    settings = settings_of(factory="models.sub.net:make")
    first = given_weights(settings)
    Path("models/exported/model.json").write_text("of the next run")
    assert given_weights(settings) == first
    Path("models/weights.pt").write_text("other")
    assert given_weights(settings) != first


def test_the_weights_beside_an_onnx_file_belong_to_it() -> None:
    Path("net.onnx").write_text("graph")
    Path("net.onnx.data").write_text("weights")
    settings = settings_of(onnx="net.onnx")
    first = given_weights(settings)
    Path("net.py").write_text("no part of it")
    assert given_weights(settings) == first
    Path("net.onnx.data").write_text("other weights")
    assert given_weights(settings) != first


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def make(): return 1", "returns int; allowed: a torch.nn.Module"),
        ("def make(): return [][0]", "IndexError: list index out of range (one.py, line 1)"),
        ("", "AttributeError: module 'one' has no attribute 'make'"),
        ("import nothing_that_is_there", "ModuleNotFoundError: "),
    ],
)
def test_a_factory_that_fails_is_one_line(code: str, said: str) -> None:
    Path("one.py").write_text(code)
    with pytest.raises(ParamsError, match=r"model\.factory: one:make") as caught:
        pretrained_model(settings_of(factory="one:make"), 2)
    assert said in str(caught.value)


def refusal(net: nn.Module, settings: ModelSettings) -> str:
    with pytest.raises(ParamsError) as caught:
        check_shapes(net, settings, CLASSES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), "takes no images (2, 3, 64, 64)"),
        (small_net(classes=3), "answers (2, 3) to images (2, 3, 64, 64); allowed: (2, 2), logits of"),
        (nn.Conv2d(3, 2, 3), "answers (2, 2, 62, 62) to images"),
        (nn.LSTM(64, 2), "takes no images"),
        (nn.Sequential(small_net(), nn.Softmax(dim=1)), "answers probabilities; allowed: logits"),
    ],
)
def test_a_model_that_takes_or_answers_something_else_is_one_line(net: nn.Module, said: str) -> None:
    settings = settings_of(factory="net:make")
    check_shapes(small_net(), settings, CLASSES)
    assert refusal(net, settings).startswith(f"model.factory: net:make {said}")


def test_an_onnx_file_of_other_images_or_none_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(onnx="net.onnx")
    Path("net.onnx").write_bytes(b"no model")
    with pytest.raises(ParamsError, match=r"model\.onnx: OpenVINO cannot read net\.onnx: "):
        pretrained_model(settings, 2)
    assert capfd.readouterr() == ("", "")  # parsers write there
    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    write_onnx(Path("net.onnx"), grey, (1, 28, 28))
    assert "it takes f32 [?,1,28,28], and has 1 outputs" in refusal(pretrained_model(settings, 2), settings)
    write_onnx(Path("net.onnx"), small_net(classes=3), (3, SIZE, SIZE))
    assert "answers (2, 3) to images (2, 3, 64, 64)" in refusal(pretrained_model(settings, 2), settings)


@pytest.mark.parametrize("any_batch", [True, False])
def test_an_onnx_file_answers_as_the_module_it_was_made_of(any_batch: bool) -> None:
    write_onnx(Path("net.onnx"), small_net(), (3, SIZE, SIZE), any_batch)
    model = pretrained_model(settings_of(onnx="net.onnx"), 2)
    images = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.allclose(model(images), small_net()(images), atol=1e-5)


def test_other_code_than_was_exported_is_not_loaded() -> None:
    write_net(Path())
    (folder := Path("exported")).mkdir()
    save_file(small_net().state_dict(), folder / WEIGHTS_NAME)
    card = ModelCard(
        architecture="net:make",
        kind="factory",
        code_sha256=sha256(Path("net.py")),
        classes=CLASSES,
        image_size=SIZE,
        **input_config(small_net(), settings_of(factory="net:make")),
        test_accuracy=0.5,
        test_images=1,
        weights_sha256=sha256(folder / WEIGHTS_NAME),
    )
    images = torch.rand(2, 3, SIZE, SIZE)
    loaded = load_model(folder, card, torch.device("cpu"), torch.float32)
    assert torch.equal(loaded(images), small_net()(images))
    Path("net.py").write_text(Path("net.py").read_text() + "# changed")
    with pytest.raises(ModelError, match="the code of net:make has changed"):
        load_model(folder, card, torch.device("cpu"), torch.float32)


def test_photos_get_the_models_labels() -> None:
    photos = [Photo(path=name, label=label, split="test", sha256="") for name, label in (("a", 0), ("b", 1))]
    index = Index(classes=CLASSES, photos=photos)
    own = index.labelled(["fox", "dog", "cat"])
    assert [own.classes[photo.label] for photo in own.photos] == CLASSES
    with pytest.raises(ParamsError, match=r"model\.classes: got dog, fox; cat is missing"):
        index.labelled(["dog", "fox"])


def test_the_last_layer_is_the_classifier_and_the_first_are_frozen() -> None:
    net = small_net()
    assert list(classifier_parameters(net)) == ["6.weight", "6.bias"]
    freeze_first_layers(net, 0.5)
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learning == {"3.weight", "6.weight", "6.bias"}
    freeze_first_layers(net, 0.0)
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_an_onnx_file_costs_what_its_module_does(name: str) -> None:
    """ptflops also counts additions of a bias; a graph has its normalisation in its weights."""
    module = timm.create_model(name, **({"img_size": SIZE} if "vit" in name else {}))
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = False  # in one operator it is not counted by torch
    write_onnx(Path("net.onnx"), module, (3, SIZE, SIZE))
    graph = pretrained_model(settings_of(onnx="net.onnx"), 1000)
    own, cost = cost_of(module, SIZE), cost_of(graph, SIZE)
    assert own is not None
    assert cost is not None
    assert own.torch_flops is not None
    assert cost.macs == pytest.approx(own.torch_flops / 2, rel=0.01)
    assert cost.parameters == pytest.approx(own.parameters, rel=0.03)
    assert (own.counted_by, cost.counted_by) == ("ptflops, backend aten", "OpenVINO's graph")
    moved, expected = (sum(traffic_of(model, SIZE).activations) for model in (graph, module))
    assert moved == pytest.approx(expected, rel=0.03)


class Mean(nn.Module):
    """Has neither a weight nor an operation that is counted."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))[:, :2]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.export's own
def test_what_ptflops_cannot_count_is_counted_by_its_graph_or_not_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cost_of(Mean(), SIZE) is None
    monkeypatch.setattr(
        "litmeter.classifier.ceilings.get_model_complexity_info", lambda *_, **__: (None, None)
    )
    cost = cost_of(small_net(), SIZE)
    assert cost is not None
    assert cost.counted_by == "OpenVINO's graph"
    assert cost.macs == (8 * 27 + 8 * 25) * (SIZE // 2) ** 2 + 2 * 8
    traffic, memory = traffic_of(Mean(), SIZE), Memory(1e10, 1e10, 0)
    found = precision_ceiling("full", "float32", None, traffic, 1e12, None, memory)
    assert (found.peak_tflops, found.theoretical_rps, found.roofline_rps) == (1.0, None, None)
    assert {row["full_rps"] for row in theoretical_rows(None)} == {None}
