"""A model that scores rows: a folder goes in, a prediction a row comes out.

Nothing parses `model.onnx` before its digest is checked, and onnxruntime sees only what passed `onnx_checks`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from models.binding import check_binding, chosen_outputs
from models.combination import CASCADE, MEMBER_OUTPUT
from models.graph_outputs import OutputReader, OutputShapeError
from models.json_document import ModelRefusedError
from models.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    MODEL_FILE,
    InputBinding,
    Manifest,
    ModelMismatchError,
)
from models.onnx_checks import MAX_MODEL_BYTES, GraphValue, ModelDescription, describe_bytes, read_bytes
from models.outputs import Outputs
from models.providers import on_providers
from models.signing import check_signature

Floats = npt.NDArray[np.float64]

# A product of a matrix and one row takes another path in onnxruntime and differs in the last bit (measured with a
# linear classifier: 393 of 1,000 rows). A prediction must not depend on its batch, so no call has fewer rows.
LEAST_ROWS = 2

_NUMPY_TYPES: Mapping[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "int64": np.int64,
    "int32": np.int32,
    "bool": np.bool_,
}
_LOG_FATAL = 4
_ort: Any = onnxruntime  # its names are re-exported in a way mypy does not take


class PredictionError(RuntimeError):
    """The model failed on a batch; with one row in the batch it is that row's fault."""


class OnnxModel:
    """An opened model, bound to the features of a pipeline. Make one with `load`; it cannot be pickled.

    Attributes:
        manifest: What the model folder says.
        prediction: What it is asked for.
    """

    def __init__(
        self,
        manifest: Manifest,
        model_bytes: bytes,
        described: ModelDescription,
        feature_names: Sequence[str],
        where: str,
        prediction: Outputs | None = None,
    ) -> None:
        self.manifest = manifest
        self._where = where
        self._session = open_session(model_bytes, where)
        graph_inputs = {each.name: each for each in described.inputs}
        self._columns = [_Columns(each, graph_inputs[each.name], feature_names) for each in manifest.inputs]
        self._fixed_rows = next((each.rows for each in described.inputs if each.rows is not None), None)
        outputs = chosen_outputs(manifest, prediction, where)
        self.prediction = prediction or manifest.prediction
        self._output_names = list(dict.fromkeys(each.name for each in outputs))
        self._readers = [(self._output_names.index(each.name), OutputReader(each, where).read) for each in outputs]
        self._try_out(feature_names)

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        feature_names: Sequence[str],
        feature_set_hash: Callable[[Sequence[str]], str],
        name: str | None = None,
        version: int | None = None,
        prediction: Outputs | None = None,
        max_bytes: int = MAX_MODEL_BYTES,
        signed_by: str | None = None,
    ) -> "OnnxModel":
        """Open the model in a folder for a pipeline.

        Args:
            directory: Folder with `model.onnx` and `manifest.json`.
            feature_names: The pipeline's features in order: the columns that `predict` will get.
            feature_set_hash: The pipeline's hash over the definitions of some of its features, by name.
            name: The name the manifest must have; None takes any.
            version: The version the manifest must have; None takes any.
            prediction: The pipeline's outputs; None takes all that the manifest names.
            max_bytes: Largest `model.onnx` opened.
            signed_by: Public keys, as `check_signature` takes them; None asks for no signature.

        Returns:
            The model, tried out on one row.

        Raises:
            ModelRefusedError: The files are not what Millrace opens.
            ModelMismatchError: The model disagrees with its manifest or with the pipeline.
        """
        path = directory / MODEL_FILE
        manifest_bytes = read_bytes(directory, MANIFEST_FILE, MAX_MANIFEST_BYTES)
        if signed_by is not None:
            check_signature(directory, manifest_bytes, signed_by)
        manifest = Manifest.from_json(manifest_bytes, where=str(directory / MANIFEST_FILE))
        model_bytes = read_bytes(directory, MODEL_FILE, max_bytes)
        digest = hashlib.sha256(model_bytes).hexdigest()
        if digest != manifest.sha256:
            message = (
                f"{path} has sha256 {digest}, its manifest says {manifest.sha256}: the file was changed or is of "
                "another version; restore it, or make the manifest anew if the change is yours"
            )
            raise ModelRefusedError(message)
        _check_identity(manifest, name, version, directory)
        _check_features(manifest, feature_names, feature_set_hash, directory)
        described = describe_bytes(model_bytes, str(path))
        check_binding(manifest, described, str(path))
        return cls(manifest, model_bytes, described, feature_names, str(path), prediction)

    def predict(self, features: Floats, stop: Any = None) -> Floats:
        """Score rows.

        A row's prediction does not depend on the other rows of the call, so a graph made for a fixed number of rows
        is called once a row: exporting it with open rows is faster. A prediction is returned as the model gives it, NaN
        and infinity included: the caller decides what they mean.

        Args:
            features: (n_rows, n_features) float64, columns in the order of `feature_names` at `load`.
            stop: `onnxruntime.RunOptions` whose `terminate` another thread may set, to end the call with an error.

        Returns:
            (n_rows,) float64 of one number a row, else (n_rows, width) as of `models.outputs`.

        Raises:
            PredictionError: The model failed, or a value does not fit an input of whole numbers or truth values.
        """
        rows = len(features)
        if rows == 0:
            return self.prediction.nothing(0)
        if self._fixed_rows is None:
            return self._run(features, max(rows, LEAST_ROWS), stop)[:rows]
        # one row a call, repeated: a graph of fixed rows may treat each place in the call differently
        alone = [self._run(features[row : row + 1], self._fixed_rows, stop)[:1] for row in range(rows)]
        return np.concatenate(alone)

    def example_row(self) -> Floats:
        """A row that the model can score, (n_features,) float64."""
        return self._example.copy()

    def outputs(self, features: Floats, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What the graph says of rows, its other outputs included; a row's values do not depend on the other rows.

        Args:
            features: (n_rows, n_features) float64, as `predict` takes them.
            names: Outputs of the graph; none means all.

        Returns:
            For each row {output: its value}: of a tensor the row as numpy has it, of a ZipMap {class: score}.

        Raises:
            PredictionError: The model failed, a value does not fit an input, or an output has not one value a row.
        """
        chosen = list(names) or [each.name for each in self._session.get_outputs()]
        size = LEAST_ROWS if self._fixed_rows is None else self._fixed_rows
        step = max(len(features), 1) if self._fixed_rows is None else 1
        found: list[dict[str, Any]] = []
        for begin in range(0, len(features), step):
            part = features[begin : begin + step]
            rows = max(len(part), size)
            values = self._call(part, rows, chosen)
            for name, value in zip(chosen, values, strict=True):
                if np.ndim(value) == 0 or len(value) != rows:
                    message = f"{self._where}: output {name!r} has not one value for each of {rows} rows"
                    raise PredictionError(message)
            found += [dict(zip(chosen, row, strict=True)) for row in zip(*values, strict=True)][: len(part)]
        return found

    def members(self, features: Floats) -> list[str] | None:
        """Which member of a cascade scores each row, as name/version; None for what is no cascade.

        Args:
            features: (n_rows, n_features) float64, as `predict` takes them.

        Raises:
            PredictionError: As of `outputs`.
        """
        combination = self.manifest.combination
        if combination is None or combination.kind != CASCADE:
            return None
        return [combination.members[each[MEMBER_OUTPUT]].label for each in self.outputs(features, [MEMBER_OUTPUT])]

    def _run(self, features: Floats, rows: int, stop: Any) -> Floats:
        outputs = self._call(features, rows, self._output_names, stop)
        try:
            parts = [read(outputs[place], rows) for place, read in self._readers]
        except OutputShapeError as error:
            raise PredictionError(str(error)) from error
        return parts[0] if self.prediction.is_number else np.column_stack(parts)

    def _call(self, features: Floats, rows: int, names: list[str], stop: Any = None) -> list[Any]:
        """Call the graph with exactly `rows` rows, of which there are at most so many: the last is repeated."""
        if len(features) < rows:
            features = np.concatenate([features, np.repeat(features[-1:], rows - len(features), axis=0)])
        feed = {each.name: each.take(features) for each in self._columns}
        try:
            outputs: list[Any] = self._session.run(names, feed, stop)
        except Exception as error:
            message = f"{self.manifest.name}/{self.manifest.version} failed on {rows} rows: {_one_line(error)}"
            raise PredictionError(message) from error
        return outputs

    def _try_out(self, feature_names: Sequence[str]) -> None:
        """Score one row, so that a width or an output that no graph declares is refused now and not a batch later."""
        self._example = np.ones(len(feature_names))
        for name, value in zip(self.manifest.features, self.manifest.example or (), strict=False):
            self._example[feature_names.index(name)] = value
        try:
            self.predict(self._example[None, :])
        except (PredictionError, IndexError, KeyError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            message = (
                f"{self._where} cannot score its example row: {reason}. Correct `inputs` or `output` "
                "of the manifest, or give it an `example` (a row of features that the model takes)"
            )
            raise ModelMismatchError(message) from error


class _Columns:
    """Takes one graph input out of the pipeline's features."""

    def __init__(self, binding: InputBinding, value: GraphValue, feature_names: Sequence[str]) -> None:
        self.name = binding.name
        self._features = binding.features
        self._dtype = _NUMPY_TYPES.get(binding.dtype)
        self._row_shape = value.row_shape(binding.width) or ()
        self._texts = np.array(("", *binding.categories), dtype=object)
        places = [feature_names.index(each) for each in binding.features]
        is_a_run = places == list(range(places[0], places[0] + len(places)))
        # neighbouring columns are a view: cast once, copied once
        self._places = slice(places[0], places[0] + len(places)) if is_a_run else np.array(places)
        self.take = {"float": self._floats, "double": self._floats, "string": self._text}.get(
            binding.dtype, self._exact
        )

    def _floats(self, features: Floats) -> npt.NDArray[Any]:
        with np.errstate(over="ignore"):
            return self._shape(np.ascontiguousarray(features[:, self._places], dtype=self._dtype))

    def _exact(self, features: Floats) -> npt.NDArray[Any]:
        values = features[:, self._places]
        with np.errstate(invalid="ignore"):
            exact = np.ascontiguousarray(values, dtype=self._dtype)
        differs = exact != values
        if differs.any():
            row, column = np.argwhere(differs)[0]
            message = (
                f"feature {self._features[column]!r} is {values[row, column]}, which input {self.name!r} of "
                f"{exact.dtype} cannot hold"
            )
            raise PredictionError(message)
        return self._shape(exact)

    def _text(self, features: Floats) -> npt.NDArray[Any]:
        is_one = features[:, self._places] == 1.0
        code = np.where(is_one.any(axis=1), is_one.argmax(axis=1) + 1, 0)
        return self._shape(self._texts[code][:, None])

    def _shape(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.reshape(len(values), *self._row_shape)


def open_session(model_bytes: bytes, where: str) -> Any:
    """Open checked bytes with the options that every worker uses.

    Args:
        model_bytes: Content of `model.onnx`, checked.
        where: What errors call it.

    Returns:
        The `onnxruntime.InferenceSession`.

    Raises:
        ModelRefusedError: onnxruntime does not take the model, or the provider that was asked for is not there.
    """
    options = _ort.SessionOptions()
    # one thread: every slot has its own session, and pools of their own would fight for the cores
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # the checks read protobuf; without this onnxruntime may take the same bytes for its own format
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # what it would log is in the exception too
    options.log_severity_level = _LOG_FATAL
    try:
        return on_providers(lambda providers: _ort.InferenceSession(model_bytes, options, providers), where)
    except ModelRefusedError:
        raise
    except Exception as error:
        message = f"{where}: onnxruntime {_ort.__version__} does not open it: {_one_line(error)}"
        raise ModelRefusedError(message) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_identity(manifest: Manifest, name: str | None, version: int | None, directory: Path) -> None:
    if name not in (None, manifest.name) or version not in (None, manifest.version):
        message = (
            f"{directory} holds {manifest.name}/{manifest.version}, not {name}/{version}: "
            "correct the pipeline's Model(...) or move the folder"
        )
        raise ModelMismatchError(message)


def _check_features(
    manifest: Manifest, feature_names: Sequence[str], feature_set_hash: Callable[[Sequence[str]], str], directory: Path
) -> None:
    unknown = [each for each in manifest.features if each not in feature_names]
    if unknown:
        message = (
            f"{directory} takes features that the pipeline does not have: {', '.join(unknown)}. "
            f"Add them to the pipeline, which has {', '.join(feature_names)}, or name another model version"
        )
        raise ModelMismatchError(message)
    found = feature_set_hash(manifest.features)
    if found != manifest.feature_set_hash:
        message = (
            f"{directory} was made with other definitions of its features (hash {manifest.feature_set_hash:.12}, the "
            f"pipeline's is {found:.12}): undo the change to the features or train a new version of the model"
        )
        raise ModelMismatchError(message)
