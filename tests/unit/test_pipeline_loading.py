"""A pipeline is one Python file, shipped or in a user's folder; what is wrong with it is one line."""

import pytest

from flink_jobs.pipelines import PipelineError, load_pipeline, model_folder, shipped_pipelines

OWN = """
from udfs.pipeline import Count, Events, Model, Pipeline

class Payment:
    payment_id: str
    card: str
    at: int

pipeline = Pipeline(
    name="fraud",
    events=Events(Payment, topic="payments", entity="card", time="at", id="payment_id"),
    features=[Count(window="{window}")],
    model=Model("fraud", version=1, root="my_models"),
    prediction="fraud_probability",
)
"""


def test_every_shipped_pipeline_loads():
    assert "purchase" in shipped_pipelines()
    for name in shipped_pipelines():
        assert load_pipeline(name).name == name


def test_a_shipped_pipeline_loaded_twice_is_the_same_one():
    assert load_pipeline("purchase").events.type is load_pipeline("purchase").events.type


def test_a_pipeline_in_a_folder_of_ones_own_loads(tmp_path):
    file = tmp_path / "fraud.py"
    file.write_text(OWN.format(window="10m"))
    pipeline = load_pipeline(str(file))
    assert pipeline.feature_names == ("count_10m",)
    assert model_folder(pipeline) == tmp_path / "my_models" / "fraud" / "1"


def test_its_classes_travel_to_the_workers_by_value(tmp_path):
    import pickle
    import subprocess
    import sys

    import cloudpickle

    file = tmp_path / "fraud.py"
    file.write_text(OWN.format(window="10m"))
    sent = cloudpickle.dumps(load_pipeline(str(file)))
    assert pickle.loads(sent).name == "fraud"
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).feature_names)"
    worker = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert b"count_10m" in worker.stdout


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (OWN.format(window="ten minutes"), "ten minutes"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("pipeline = 3", "no `pipeline = Pipeline(...)`"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, source, said):
    file = tmp_path / "fraud.py"
    file.write_text(source)
    with pytest.raises(PipelineError) as caught:
        load_pipeline(str(file))
    assert said in str(caught.value)
    assert "fraud.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(PipelineError, match="purchase"):
        load_pipeline("purchases")
