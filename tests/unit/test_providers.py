"""CUDA scores where it is asked for and there; where it is not, the CPU does and says so, or the model is refused."""

import logging

import numpy as np
import onnxruntime
import pytest
from onnx_graphs import load, write_sum

from flink_jobs.settings import SettingsError, load_settings
from models import providers
from models.json_document import ModelRefusedError
from models.opened import open_alone
from models.trial import try_out
from udfs.beam import MillraceModelHandler

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
HAS_CUDA = CUDA in onnxruntime.get_available_providers()
without_cuda = pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")


class Session:
    def __init__(self, names):
        self.names = names

    def get_providers(self):
        return self.names


@pytest.fixture
def choose(monkeypatch):
    """Choose providers, and say which onnxruntime has; forget both after the test."""
    monkeypatch.setenv(providers.VARIABLE, "cpu")
    providers._tell.cache_clear()

    def choose(choice, *there):
        monkeypatch.setenv(providers.VARIABLE, choice)
        if there:
            monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(there))

    return choose


def opened(makes=Session):
    """The session that was opened, and on which providers each try was."""
    tried = []

    def make(names):
        tried.append([name if isinstance(name, str) else name[0] for name in names])
        return makes(tried[-1])

    return providers.on_providers(make, "m"), tried


@pytest.mark.parametrize(
    ("choice", "there", "tried"),
    [
        ("cpu", [CUDA, CPU], [[CPU]]),
        ("auto", [CUDA, CPU], [[CUDA, CPU]]),
        ("cuda", [CUDA, CPU], [[CUDA, CPU]]),
        ("auto", [CPU], [[CPU]]),
    ],
)
def test_cuda_is_used_where_it_is_asked_for_and_there(choose, choice, there, tried):
    choose(choice, *there)
    assert opened()[1] == tried


def test_cuda_that_is_there_but_does_not_start_is_the_cpu_and_one_line_says_so(choose, caplog):
    choose("auto", CUDA, CPU)
    for _ in range(3):
        session, tried = opened(lambda names: Session([CPU]))
        assert (session.names, tried) == ([CPU], [[CUDA, CPU], [CPU]])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "models are scored on the CPU: CUDA did not start" in caplog.text


def test_cuda_that_fails_to_start_is_the_cpu_too(choose, caplog):
    choose("auto", CUDA, CPU)

    def fail_on_cuda(names):
        if CUDA in names:
            raise RuntimeError("CUDA failure 100:\n no device")
        return Session(names)

    assert opened(fail_on_cuda)[0].names == [CPU]
    assert "CUDA did not start: CUDA failure 100: no device" in caplog.text
    choose("cuda", CUDA, CPU)
    with pytest.raises(ModelRefusedError, match=r"m: onnx_providers is cuda, but CUDA did not start: .* no device"):
        opened(fail_on_cuda)


@without_cuda
def test_the_real_onnxruntime_without_cuda_scores_on_the_cpu(choose, tmp_path, caplog):
    choose("auto")
    model = load(write_sum(tmp_path / "m"), ("a", "b"))
    assert model.predict(np.array([[1.0, 2.0]])).tolist() == [3.0]
    assert "models are scored on the CPU: onnxruntime" in caplog.text
    choose("cuda")
    with pytest.raises(ModelRefusedError, match="has no CUDA here"):
        load(tmp_path / "m", ("a", "b"))


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_list_that_promises_too_much_does_not_hide_that_the_cpu_scores(choose, tmp_path, caplog):
    choose("auto", CUDA, CPU)
    assert load(write_sum(tmp_path / "m"), ("a", "b")).predict(np.array([[1.0, 2.0]])).tolist() == [3.0]
    assert "CUDA did not start (no driver" in caplog.text


def test_a_choice_that_is_none_is_refused(choose, tmp_path):
    choose("gpu")
    with pytest.raises(ModelRefusedError, match="MILLRACE_ONNX_PROVIDERS is 'gpu': write cpu, auto, cuda"):
        load(write_sum(tmp_path / "m"), ("a", "b"))
    with pytest.raises(SettingsError, match="setting onnx_providers"):
        load_settings()


def test_a_setting_in_the_file_is_the_choice_of_the_process(choose, tmp_path, monkeypatch):
    monkeypatch.delenv(providers.VARIABLE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "millrace.toml").write_text('onnx_providers = "cuda"\n')
    assert load_settings().onnx_providers == "cuda"
    choose("cpu", CPU)
    load_settings(onnx_providers="cuda")
    with pytest.raises(ModelRefusedError, match="onnx_providers is cuda"):
        opened()


def test_a_model_is_tried_out_on_the_cpu(choose, tmp_path):
    choose("cuda")
    try_out(write_sum(tmp_path / "m"))


def test_the_handler_of_beam_chooses_for_its_workers(choose):
    handler = MillraceModelHandler("purchase/1", providers="auto")
    handler.set_environment_vars()
    choose_now = open_alone("purchase/1").predict(np.ones((2, 5)))
    assert handler.run_inference(np.ones((2, 5)), handler.load_model())[0].inference == choose_now[0]
    assert providers.os.environ[providers.VARIABLE] == "auto"


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="this onnxruntime has no CUDA")
@pytest.mark.parametrize("version", [1, 2])
def test_scores_on_cuda_are_those_of_the_cpu_but_for_the_last_bits(choose, version):
    model = open_alone(f"purchase/{version}")
    rows = np.random.default_rng(1).exponential(20, (1_000, len(model.manifest.features)))
    choose("cuda")
    np.testing.assert_allclose(open_alone(f"purchase/{version}").predict(rows), model.predict(rows), rtol=1e-5)
