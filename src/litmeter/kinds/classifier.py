"""The shipped image classifier: trained, exported and compiled by stages of its own, served with its page."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import PrivateAttr

from litmeter.classifier import here
from litmeter.classifier.data.index import read_index
from litmeter.classifier.model.card import CARD_NAME, INTERPOLATIONS, check_code, read_card
from litmeter.classifier.model.compiled.manifest import (
    package_hashes,
    packages_to_use,
    read_manifest,
    split_note,
)
from litmeter.classifier.model.environment import keeping_freed_memory, modules_of
from litmeter.classifier.model.precision import (
    PRECISIONS,
    cannot_run_reason,
    check_precision,
    dtype_name,
    precisions_on,
)
from litmeter.classifier.model.settings import InferenceSettings, Precision, Preprocess
from litmeter.classifier.server.settings import ServerSettings
from litmeter.errors import ModelError
from litmeter.kinds.configuration import (
    Configuration,
    Exclusion,
    Host,
    Lever,
    Pipeline,
    Preflight,
    TuneSettings,
)
from litmeter.kinds.server import PREDICT, Server, Start, started_workers
from litmeter.kinds.workers import WorkerConfiguration, WorkerTuneSettings
from litmeter.load.bodies import Bodies
from litmeter.load.settings import LoadSettings
from litmeter.paths import MODEL, ModelFolders
from litmeter.say.tables import significant
from litmeter.settings import OneOrMore
from litmeter.system.imports import freeze_gc_after


class ClassifierTuneSettings(WorkerTuneSettings):
    """What a search seeks, and the values of the knobs of workers and of the model."""

    precision: OneOrMore[Precision] = ("full",)
    compiled: OneOrMore[bool] = (False,)
    preprocess: OneOrMore[Preprocess] = ("timm",)
    keep_freed_memory: OneOrMore[bool] = (False,)


class Classifier(ServerSettings, WorkerConfiguration):
    """A server of the exported model; the defaults are LitServe's own."""

    kind, key = "classifier", ""
    item = "image"
    page: ClassVar[bool] = True
    levers: ClassVar[Mapping[Lever, str]] = {**WorkerConfiguration.levers, "preprocessing": "preprocess"}

    _folders: ModelFolders = PrivateAttr(MODEL)

    def of(self, folders: ModelFolders) -> Classifier:
        """This configuration, with the model in other folders."""
        copy = self.model_copy()
        copy._folders = folders
        return copy

    @property
    def spec(self) -> str:
        """A project has one classifier."""
        return ""

    def describe(self, device: str) -> str:
        """Number format, batches, workers, and how the model runs."""
        model = [
            "compiled" if self.compiled else "",
            self.preprocess if self.preprocess != "timm" else "",
            "freed memory kept" if self.keep_freed_memory else "",
        ]
        return self.described([dtype_name(self.precision, device)], model)

    def starting(self, how: Start) -> AbstractContextManager[Server]:
        """Start the server; without a model it runs on the CPU."""
        return started_workers(
            "litmeter.classifier.server",
            how,
            PREDICT,
            self.environment(),
            folders=asdict(self._folders),
            settings=self.model_dump(exclude_defaults=True),
        )

    def identity(self, device: str) -> dict[str, Any]:
        """The settings, and the hashes of the compiled packages that they run."""
        return {"serve": self.model_dump(), "packages": package_hashes(self._folders, device, self)}

    def search_identity(self, device: str) -> Any:
        """The hashes of all packages."""
        return [one.sha256 for one in read_manifest(self._folders, device).packages]

    def environment(self) -> dict[str, str]:
        """This process's; ``keep_freed_memory`` raises glibc's thresholds in it."""
        return keeping_freed_memory() if self.keep_freed_memory else dict(os.environ)

    def note(self, device: str) -> str | None:
        """Also whether batches are larger than the compiled packages, or there are none."""
        notes = super().note(device), split_note(self._folders, device, self, self.max_batch_size)
        return "; ".join(filter(None, notes)) or None

    stages: ClassVar[tuple[str, ...]] = (
        *("data", "train", "export", "compile", "packages", "precisions", "ceilings"),
    )

    def resolved(self, machine: Host, ask_native: Callable[[], bool]) -> Classifier:
        """Also the precision ``auto``: half if half is native, else full."""
        own = cast(Classifier, super().resolved(machine, ask_native))
        if own.precision != "auto":
            return own
        return own.model_copy(update={"precision": "half" if ask_native() else "full"})

    check: ClassVar[Any] = staticmethod(here.check)
    check_here: ClassVar[Any] = staticmethod(here.check_files)
    facts: ClassVar[Any] = staticmethod(here.write_facts)
    remarks: ClassVar[Any] = staticmethod(here.remarks)

    @classmethod
    def model_digest(cls) -> str | None:
        """Hash of the exported weights."""
        there = (MODEL.exported / CARD_NAME).exists()
        return read_card(MODEL.exported).weights_sha256 if there else None

    @classmethod
    def model_card(cls) -> dict[str, Any] | None:
        """The exported model's card."""
        return read_card(MODEL.exported).model_dump()

    brings_bodies: ClassVar[bool] = True

    @classmethod
    def own_bodies(cls, load: LoadSettings) -> Bodies | None:
        """The photos, as files or as base64 in JSON."""
        from litmeter.classifier.server.client import CONTENT_TYPES, request_bodies

        return Bodies(request_bodies(_photos(), load.request_body), CONTENT_TYPES[load.request_body])

    def tested(self, load: LoadSettings) -> list[int]:
        """The test photos, if photos are sent."""
        if load.bodies is not None:
            return []
        return [number for number, photo in enumerate(read_index().photos) if photo.split == "test"]

    def accuracy(self, answers: Mapping[tuple[int, bytes], int], device: str) -> dict[str, Any]:
        """Accuracy on the test photos, and agreement with the answers of full precision."""
        from litmeter.classifier.accuracy import compare
        from litmeter.classifier.model.reference import read_reference

        dtype = dtype_name(self.precision, device)
        return compare(read_reference(MODEL.exported), answers, dtype, self.preprocess)

    no_pipeline: ClassVar[str] = ""
    pipeline_keys: ClassVar[frozenset[str]] = frozenset(
        (*InferenceSettings.model_fields, "workers_per_device", "threads_per_worker")
    )

    def pipeline_inputs(self, bodies: Bodies) -> Any:
        """Paths of the model and of the photos."""
        return {
            "folders": [str(folder) for folder in vars(self._folders).values()],
            "photos": list(map(str, _photos())),
        }

    def pipeline(self, inputs: Any, device: str) -> tuple[str, Callable[[], Pipeline]]:
        """Workers are forked from a process with all libraries, in which torch has started no thread yet."""
        photos = [Path(path).read_bytes() for path in inputs["photos"]]
        folders = ModelFolders(*map(Path, inputs["folders"]))
        with freeze_gc_after():
            for name in modules_of(self, device):
                importlib.import_module(name)
            from litmeter.classifier.pipeline import ClassifierPipeline
        return "fork", partial(ClassifierPipeline, folders, device, self, self.threads_per_worker, photos)

    @property
    def recodes(self) -> bool | None:
        """LitServe's transport passes an image on as base64 in JSON, the direct one as the file."""
        return self.transport == "litserve"

    @property
    def ceiling(self) -> str | None:
        """The bounds of a precision have its name."""
        return self.precision

    def native(self, half_is_native: bool) -> Classifier:
        """In full precision on a CPU without instructions for bfloat16."""
        emulated = self.precision == "half" and not half_is_native
        return self.model_copy(update={"precision": "full"}) if emulated else self

    def as_run(self, packages: Sequence[Any]) -> Classifier:
        """The model runs in torch if none of its packages is used."""
        used = any(one.precision == self.precision and not one.skipped_reason for one in packages)
        return self if used or not self.compiled else self.model_copy(update={"compiled": False})

    def faster_models(
        self, packages: Sequence[Any], changes: Sequence[Any]
    ) -> Iterator[tuple[str, float, str]]:
        """To compile the model; for a compiled model, other precisions."""
        from litmeter.classifier.model.rows import TEST, image_ms  # whose imports take time

        if not self.compiled:
            pairs = [
                (row.eager_ms / row.compiled_ms)
                for row in packages
                if row.precision == self.precision and row.eager_ms and row.compiled_ms
            ]
            if pairs:
                yield "compiled", max(pairs), "compiled, the model is faster"
            return
        own_ms = image_ms(packages, self.precision)
        for precision in ("full", "half", "int8"):
            ms = image_ms(packages, precision)
            if precision == self.precision or not own_ms or not ms:
                continue
            kept = [row.agreement for row in changes if row.precision == precision and row.split == TEST]
            labels = f" ({min(kept):.1%} of the test photos keep their label)" if kept else ""
            yield (
                "precision",
                own_ms / ms,
                f"{precision} takes {ms:.1f} ms an image against {own_ms:.1f}{labels}",
            )

    def higher_ceilings(
        self, ceilings: Any, half_is_native: bool, device: str
    ) -> Iterator[tuple[str, float, str]]:
        """Other precisions that can run, if their roofline is higher."""
        own_rps = ceilings.of(self.precision).roofline_rps
        allowed = {"half": half_is_native, "int8": self.compiled and device == "cpu"}
        for name, usable in allowed.items():
            rps = ceilings.of(name).roofline_rps
            if usable and rps and own_rps and rps > own_rps:
                yield "precision", rps / own_rps, f"the roofline is {significant(rps)} in {name}"

    tune_section: ClassVar[type[TuneSettings]] = ClassifierTuneSettings
    knobs: ClassVar[tuple[str, ...]] = (
        *("precision", "compiled", "preprocess", "transport", "workers_per_device", "threads_per_worker"),
        *("max_batch_size", "batch_timeout_s", "keep_freed_memory"),
    )

    def reason_against(self, machine: Host) -> str:
        """Why the model cannot run, else why its workers would only take turns."""
        return Configuration.reason_against(self, machine) or super().reason_against(machine)

    def tried(self, configurations: Sequence[Any], machine: Host, how: Preflight) -> Host:
        """Exclude precisions, packages and preprocessings by what was compiled, and by the photos."""
        return replace(machine, exclusions=[*self._exclusions(machine.device)])

    def _exclusions(self, device: str) -> Iterator[Exclusion]:
        for precision in PRECISIONS:
            if precision not in precisions_on(device):
                yield Exclusion({"precision": precision}, f"{precision}: for CPUs only")
                continue
            if reason := cannot_run_reason(dtype_name(precision, device), device):
                yield Exclusion({"precision": precision}, f"{precision}: {reason}")
            compiled = {"precision": precision, "compiled": True}
            try:
                used = packages_to_use(self._folders, device, precision)
                if all(package.batch_size > 1 for package in used):
                    why = "no package for a single image is used"
                    yield Exclusion(compiled, f"{precision}, compiled: {why}")
            except ModelError as error:
                yield Exclusion(compiled, f"{precision}, compiled: {error}")
        card = read_card(self._folders.exported)
        if card.kind == "onnx":
            yield Exclusion({"compiled": False}, "not compiled: a model of an ONNX file is served compiled")
        if card.interpolation not in INTERPOLATIONS:
            for name in ("torchvision", "scaled"):
                yield Exclusion({"preprocess": name}, f"{name}: it does not resize by {card.interpolation}")
        elif max(map(_shorter_side, _photos())) < 2 * card.resized_side:
            why = "scaled: no photo is twice as large as the model needs it"
            yield Exclusion({"preprocess": "scaled"}, why)

    def agreement(self, device: str) -> Callable[[Any], float]:
        """The share of photos whose label is that of full precision; found once for what answers depend on.

        Photos that the model was fitted to are left out, as on these it agrees too well.
        """
        from litmeter.classifier.model.answers import answers_of
        from litmeter.classifier.model.reference import read_reference

        photos, reference = _photos(), read_reference(MODEL.exported)
        numbers = [number for number, split in enumerate(reference.splits) if split != "train"]
        expected = reference.probabilities[numbers].argmax(axis=1)
        found: dict[tuple[str, str, bool], float] = {}

        def share(one: Classifier) -> float:
            key = one.precision, one.preprocess, one.compiled
            if key not in found:
                [answers] = answers_of(MODEL, device, [one], [photos[number] for number in numbers])
                found[key] = float((answers.argmax(axis=1) == expected).mean())
            return found[key]

        return share

    @property
    def search_name(self) -> str:
        """The values of all knobs."""
        built = "compiled" if self.compiled else "torch"
        model = f"{self.precision} {built} {self.preprocess} {self.transport}"
        return f"{model} {super().search_name}{' keep' if self.keep_freed_memory else ''}"

    @property
    def simplicity(self) -> tuple[float, ...]:
        """After workers and batches: not compiled, timm's own preprocessing, and memory as usual."""
        return (*super().simplicity, self.compiled, self.preprocess != "timm", self.keep_freed_memory)

    def check_there(self) -> None:
        """The exported model, which must be as its card says, and its packages if it is compiled."""
        needed = {"export": self._folders.exported}
        needed |= {"compile": self._folders.compiled} if self.compiled else {}
        if not all(folder.is_dir() for folder in needed.values()):
            raise ModelError(
                f"there is no model to serve in {Path.cwd()}; `.venv/bin/dvc repro {list(needed)[-1]}` makes "
                "it (another project: --project FOLDER)"
            )
        card = read_card(self._folders.exported)
        if not self.compiled:
            check_code(card)

    def foreground_notes(self, device: str) -> Iterator[str]:
        """The note on these settings, if there is one."""
        check_precision(self.precision, device, "serve.precision")
        yield from super().foreground_notes(device)


def _photos() -> list[Path]:
    return [Path(photo.path) for photo in read_index().photos]


def _shorter_side(photo: Path) -> int:
    from PIL import Image  # whose import takes time

    with Image.open(photo) as image:
        return min(image.size)
