"""What a model folder says about its model: `manifest.json`, read strictly and written stably.

The manifest binds the graph's inputs to features by name and its outputs to what a prediction holds, and holds the
digest that `model.onnx` must have. Errors name the file and the key.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.json_document import JsonObject, read_object
from models.outputs import Label, Number, Output, Outputs, Vector

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "millrace-model-v1"
MAX_MANIFEST_BYTES = 1_000_000
DTYPES = ("float", "double", "int64", "int32", "bool", "string")

_KEYS = (
    *("format", "name", "version", "description", "sha256", "opsets", "inputs", "features"),
    *("feature_set_hash", "output", "metrics", "training_data_sha256", "example"),
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelMismatchError(ValueError):
    """The model is sound but does not fit: its manifest disagrees with the graph or with the pipeline."""


@dataclass(frozen=True)
class InputBinding:
    """Which features make one graph input.

    Attributes:
        name: The graph input.
        dtype: One of `DTYPES`; the type the graph declares.
        features: Feature names, one a column of the input, in order.
        categories: Only for `string`: the text each feature stands for. The features are then the one-hot columns
            of one category, and the input gets the text of the column that is 1, or "" where none is.
    """

    name: str
    dtype: str
    features: tuple[str, ...]
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Columns of the graph input: one a feature, but one in all for a string."""
        return 1 if self.dtype == "string" else len(self.features)


@dataclass(frozen=True)
class OutputBinding:
    """Where an output of the prediction is.

    Attributes:
        name: The graph output.
        kind: `tensor` ([n], [n, 1] or [n, classes]), `zipmap` (a list of {class: score}) or `sequence` (a list of such
            tensors, one a target, as scikit-learn's multi-output classifiers have it).
        column: The column of a tensor; None of a vector, which is the whole row.
        class_key: The key of a ZipMap, an int or a text as in the training labels.
        item: Which tensor of a sequence.
        field: What the prediction calls it; "" where it is the only number, which every pipeline calls as it likes.
        size: How many numbers, of a vector.
        class_keys: The keys of a ZipMap that make a vector, in order.
        labels: The classes there are, of a label.
    """

    name: str
    kind: str
    column: int | None = None
    class_key: int | str | None = None
    item: int | None = None
    field: str = ""
    size: int | None = None
    class_keys: tuple[int, ...] | tuple[str, ...] = ()
    labels: tuple[int, ...] | tuple[str, ...] = ()

    @property
    def output(self) -> Output:
        """What it is in a prediction."""
        if self.labels:
            return Label(self.field, self.labels)
        return Number(self.field or "score") if self.size is None else Vector(self.field, self.size)


@dataclass(frozen=True)
class Manifest:
    """All that is known about a model besides its graph.

    Attributes:
        name: The model's name, as in its folder.
        version: The model's version, as in its folder.
        sha256: Hex digest of `model.onnx`.
        inputs: How features become graph inputs.
        feature_set_hash: Hash of the definitions of `features`, from `pipeline.feature_set_hash(features)`.
        outputs: Where the prediction is.
        opsets: Operator set versions by domain, as the graph declares them.
        description: One sentence for people.
        metrics: Numbers by name, nested as wanted.
        training_data_sha256: Digest of what the model was fitted on; None for a model that was not fitted here.
        example: A row of `features` that the model can score, used to try it out when it is opened; ones by default.
    """

    name: str
    version: int
    sha256: str
    inputs: tuple[InputBinding, ...]
    feature_set_hash: str
    outputs: tuple[OutputBinding, ...]
    opsets: Mapping[str, int]
    description: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training_data_sha256: str | None = None
    example: tuple[float, ...] | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features used, in order of first use."""
        return tuple(dict.fromkeys(name for binding in self.inputs for name in binding.features))

    @property
    def prediction(self) -> Outputs:
        """What the model gives."""
        return Outputs(tuple(each.output for each in self.outputs))

    def to_json(self) -> str:
        """The manifest as text: the same manifest is always the same bytes."""
        inputs = [
            {"name": each.name, "dtype": each.dtype, "features": list(each.features)}
            | ({"categories": list(each.categories)} if each.dtype == "string" else {})
            for each in self.inputs
        ]
        prediction: dict[str, Any] = {"output": output_document(self.outputs[0])}
        if self.outputs[0].field:
            prediction = {"outputs": {each.field: output_document(each) for each in self.outputs}}
        document = {
            "format": MANIFEST_FORMAT,
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "sha256": self.sha256,
            "opsets": dict(sorted(self.opsets.items())),
            "inputs": inputs,
            "features": list(self.features),
            "feature_set_hash": self.feature_set_hash,
            **prediction,
            "metrics": dict(self.metrics),
            "training_data_sha256": self.training_data_sha256,
            "example": None if self.example is None else list(self.example),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        Manifest.from_json(text, where=f"manifest of {self.name}")
        return text

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = MANIFEST_FILE) -> "Manifest":
        """Read a manifest; nothing missing, nothing unknown, nothing of another type.

        Args:
            text: The JSON.
            where: What an error calls the document, normally its path.

        Returns:
            The manifest.

        Raises:
            ModelRefusedError: The text is not a valid manifest; the message names the key.
        """
        return _manifest(read_object(text, where))

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Read `manifest.json` of a model folder; see `from_json`."""
        return cls.from_json((directory / MANIFEST_FILE).read_bytes(), where=str(directory / MANIFEST_FILE))

    def write(self, directory: Path) -> Path:
        """Write `manifest.json` into a model folder.

        Args:
            directory: An existing folder.

        Returns:
            The path written.
        """
        path = directory / MANIFEST_FILE
        path.write_text(self.to_json(), encoding="utf-8")
        return path


def _manifest(document: JsonObject) -> Manifest:
    if document.text("format") != MANIFEST_FORMAT:
        document.refuse("format", f'this Millrace reads "{MANIFEST_FORMAT}"')
    several = "outputs" in document.content
    document.only(*(("outputs" if several and key == "output" else key) for key in _KEYS))
    inputs = tuple(_input(each) for each in document.objects("inputs"))
    if len({each.name for each in inputs}) != len(inputs) or not inputs:
        document.refuse("inputs", "name at least one graph input, each once")
    opsets = document.object("opsets")
    manifest = Manifest(
        name=document.text("name", NAME),
        version=document.whole("version", least=1),
        sha256=document.text("sha256", _SHA256),
        inputs=inputs,
        feature_set_hash=document.text("feature_set_hash", _SHA256),
        outputs=_outputs(document.object("outputs")) if several else (_output(document.object("output"), ""),),
        opsets={domain: opsets.whole(domain, least=1) for domain in opsets.content},
        description=document.text("description"),
        metrics=document.object("metrics").content,
        training_data_sha256=document.optional("training_data_sha256", lambda key: document.text(key, _SHA256)),
        example=document.optional("example", document.numbers),
    )
    if document.texts("features") != manifest.features:
        document.refuse("features", "must be the features of `inputs` in order of first use")
    if manifest.example is not None and len(manifest.example) != len(manifest.features):
        document.refuse("example", f"must have one number for each of the {len(manifest.features)} features")
    return manifest


def _input(document: JsonObject) -> InputBinding:
    dtype = document.text("dtype")
    if dtype not in DTYPES:
        document.refuse("dtype", f"write one of {', '.join(DTYPES)}")
    features = document.texts("features")
    if not features:
        document.refuse("features", "name at least one feature")
    if dtype != "string":
        document.only("name", "dtype", "features")
        return InputBinding(document.text("name"), dtype, features)
    document.only("name", "dtype", "features", "categories")
    categories = document.texts("categories")
    if len(categories) != len(features):
        document.refuse("categories", "give one text for each of the features")
    return InputBinding(document.text("name"), dtype, features, categories)


def output_document(output: OutputBinding) -> dict[str, Any]:
    """Where an output is, as a manifest says it."""
    place: dict[str, dict[str, Any]] = {
        "tensor": {"column": output.column},
        "zipmap": {"class": output.class_key},
        "sequence": {"item": output.item, "column": output.column},
    }
    document = {"name": output.name, "kind": output.kind} | place[output.kind]
    if output.labels:
        return document | {"labels": list(output.labels)}
    if output.size is None:
        return document
    if output.kind == "zipmap":
        return {"name": output.name, "kind": output.kind, "classes": list(output.class_keys)}
    del document["column"]
    return document | {"size": output.size}


def _outputs(document: JsonObject) -> tuple[OutputBinding, ...]:
    found = tuple(_output(document.object(field), field) for field in document.content)
    if not found:
        document.refuse("outputs", "name at least one output of the prediction")
    return found


def _output(document: JsonObject, field: str) -> OutputBinding:
    name, kind = document.text("name"), document.text("kind")
    if kind not in ("tensor", "zipmap", "sequence"):
        document.refuse("kind", "write tensor, zipmap or sequence")
    if kind == "zipmap":
        if field and "classes" in document.content:
            document.only("name", "kind", "classes")
            keys = _classes(document, "classes")
            return OutputBinding(name, kind, field=field, size=len(keys), class_keys=keys)
        document.only("name", "kind", "class")
        key = document.value("class")
        if not isinstance(key, str) and type(key) is not int:
            document.refuse("class", "must be a class label: a whole number or a text")
        return OutputBinding(name, kind, class_key=key, field=field)
    item = document.whole("item", least=0) if kind == "sequence" else None
    known = ("name", "kind", "item") if kind == "sequence" else ("name", "kind")
    if field and "size" in document.content:
        document.only(*known, "size")
        return OutputBinding(name, kind, item=item, field=field, size=document.whole("size", least=1))
    column = document.whole("column", least=0)
    if field and kind == "tensor" and "labels" in document.content:
        document.only(*known, "column", "labels")
        return OutputBinding(name, kind, column=column, field=field, labels=_classes(document, "labels"))
    document.only(*known, "column")
    return OutputBinding(name, kind, column=column, item=item, field=field)


def _classes(document: JsonObject, key: str) -> tuple[int, ...] | tuple[str, ...]:
    found = document.value(key)
    is_list = isinstance(found, list) and {type(each) for each in found} in ({str}, {int})
    if not is_list or len(set(found)) < len(found):
        document.refuse(key, "must be a list of different class labels: whole numbers or texts")
    return tuple(found)
