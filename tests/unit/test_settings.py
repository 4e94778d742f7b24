"""A setting that is wrong is named, with the place to set it."""

import pytest

from flink_jobs.settings import SettingsError, load_settings


def test_an_argument_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("MILLRACE_PARALLELISM", "4")
    assert load_settings().parallelism == 4
    assert load_settings(parallelism=1).parallelism == 1
    assert load_settings(parallelism=None).parallelism == 4


def test_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "millrace.toml").write_text('parallelism = 3\nguarantee = "at-least-once"\n')
    monkeypatch.setenv("MILLRACE_PARALLELISM", "4")
    settings = load_settings()
    assert (settings.parallelism, settings.guarantee) == (4, "at-least-once")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parallelism", "0"),
        ("parallelism", "many"),
        ("guarantee", "mostly-once"),
        ("bootstrap", "no-port"),
        ("checkpoint_interval_ms", "1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_place_to_set_it(monkeypatch, name, value):
    monkeypatch.setenv(f"MILLRACE_{name.upper()}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"setting {name}:" in str(caught.value)
    assert f"MILLRACE_{name.upper()}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_setting_in_the_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "millrace.toml").write_text("paralelism = 3\n")
    with pytest.raises(SettingsError, match="paralelism"):
        load_settings()
