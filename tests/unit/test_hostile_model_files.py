"""A model folder changed to do harm is refused by name, in one line, before a job starts and again by its worker."""

import dataclasses
import shutil

import onnx
import pytest
from onnx import TensorProto, helper
from onnx_graphs import edit_manifest, resign
from wire_records import MODELS, PURCHASE

from flink_jobs import preflight
from flink_jobs.pipeline_model import open_model
from flink_jobs.preflight import PreflightError, check_model
from models.json_document import ModelRefusedError
from models.manifest import ModelMismatchError
from models.onnx_checks import MAX_MODEL_BYTES
from models.trial import score_rows
from udfs.pipeline import Model


def edit(folder, change):
    """Change the graph, and the manifest's digest with it: whoever can write one file can write both."""
    path = folder / "model.onnx"
    model = onnx.load_model(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    resign(folder)


def claims(name, dims, **more):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
    for key, content in more.pop("external", {}).items():
        tensor.external_data.add(key=key, value=content)
    if tensor.external_data:
        tensor.data_location = TensorProto.EXTERNAL
    return tensor


def wrong_digest(folder):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")


def link_out(name):
    def harm(folder):
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return harm


def external_data(location):
    tensor = claims("w", [1], external={"location": location})
    return lambda folder: edit(folder, lambda model: model.graph.initializer.append(tensor))


def operator_of(domain):
    node = helper.make_node("Evil", ["x"], ["evil"], domain=domain)
    return lambda folder: edit(folder, lambda model: model.graph.node.append(node))


def operator_in_a_function(folder):
    body = [helper.make_node("Evil", ["a"], ["b"], domain="evil.corp")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil.corp", 1)]
    function = helper.make_function("mine", "f", ["a"], ["b"], body, opsets)
    edit(folder, lambda model: model.functions.append(function))


def opset(domain, version):
    def change(model):
        for each in list(model.opset_import):
            if each.domain == domain:
                model.opset_import.remove(each)
        model.opset_import.append(helper.make_opsetid(domain, version))

    return lambda folder: edit(folder, change)


def over_size(folder):
    with (folder / "model.onnx").open("ab") as file:
        file.truncate(MAX_MODEL_BYTES + 1)


def over_size_manifest(folder):
    with (folder / "manifest.json").open("ab") as file:
        file.truncate(1_000_001)


def more_columns(folder):
    def change(model):
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 99

    edit(folder, change)


def more_dimensions(folder):
    def change(model):
        for size in (3, 4):
            model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=size)

    edit(folder, change)


def input_of_another_name(folder):
    edit_manifest(folder, lambda document: document["inputs"][0].update(name="nobody"))


def huge_tensor(folder):
    edit(folder, lambda model: model.graph.initializer.append(claims("w", [25_000_000_000])))


def huge_sparse_tensor(folder):
    sparse = onnx.SparseTensorProto(dims=[25_000_000_000], values=claims("w", [0]), indices=claims("i", [0]))
    edit(folder, lambda model: model.graph.sparse_initializer.append(sparse))


def negative_dimension(folder):
    edit(folder, lambda model: model.graph.initializer.append(claims("w", [-1, 4])))


def deep_graphs(folder):
    def within(field, content):
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([field << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(5_000):
        graph = within(1, within(5, within(6, graph)))  # a node, its attribute, the attribute's graph
    (folder / "model.onnx").write_bytes(within(7, graph))
    resign(folder)


def cut_off(folder):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-200])
    resign(folder)


def format_of_onnxruntime(folder):
    (folder / "model.onnx").write_bytes(b"\x18\0\0\0ORTM" + bytes(200))
    resign(folder)


CORPUS = [
    (wrong_digest, "has sha256 .* its manifest says"),
    (link_out("model.onnx"), "leads out of its folder"),
    (link_out("manifest.json"), "leads out of its folder"),
    (external_data("weights.bin"), "keeps its data in another file"),
    (external_data("../../../etc/passwd"), "keeps its data in another file"),
    (external_data("/dev/zero"), "keeps its data in another file"),
    (operator_of("evil.corp"), "operator 'Evil' is of domain 'evil.corp'"),
    (operator_of("com.microsoft"), "operator 'Evil' is of domain 'com.microsoft'"),
    (operator_of("a\n\x1b[2Jb"), r"operator 'Evil' is of domain 'a\\n\\x1b\[2Jb'"),
    (operator_in_a_function, "operator 'Evil' is of domain 'evil.corp'"),
    (opset("", 99), "opset 99 of ai.onnx"),
    (opset("ai.onnx.ml", 99), "opset 99 of ai.onnx.ml"),
    (opset("", -1), "opset -1 of ai.onnx"),
    (over_size, "is over 268,435,456 bytes"),
    (over_size_manifest, "is over 1,000,000 bytes"),
    (more_columns, "99"),
    (more_dimensions, "has 4 dimensions"),
    (input_of_another_name, "input 'features' of the graph has no features"),
    (huge_tensor, r"tensor 'w' claims to be \[25000000000\]"),
    (huge_sparse_tensor, r"a sparse tensor unpacks to \[25000000000\]"),
    (negative_dimension, r"tensor 'w' claims to be \[-1, 4\]"),
    (deep_graphs, "not an ONNX model"),
    (cut_off, "not an ONNX model"),
    (format_of_onnxruntime, "not an ONNX model"),
]


@pytest.mark.parametrize(("harm", "why"), CORPUS)
def test_a_changed_model_is_refused_before_the_job_and_by_its_worker(tmp_path, monkeypatch, harm, why):
    folder = tmp_path / "purchase" / "2"
    shutil.copytree(MODELS / "purchase" / "2", folder)
    harm(folder)
    pipeline = dataclasses.replace(PURCHASE, model=Model("purchase", version=2, root=tmp_path))
    monkeypatch.setattr(preflight, "try_out", score_rows)  # what its process does, without the process
    with pytest.raises(PreflightError, match=why) as before:
        check_model(pipeline)
    with pytest.raises((ModelRefusedError, ModelMismatchError), match=why) as worker:
        open_model(pipeline, folder)
    for refused in (before, worker):
        assert str(refused.value).isprintable()
        assert str(tmp_path) in str(refused.value)
