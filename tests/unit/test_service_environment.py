"""`hat service install` and what the environment of its user says."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from hat.cli import hat
from process.errors import ConfigError


@pytest.mark.parametrize(
    ("role", "variable", "flag"),
    [
        ("cloud", "HAT_SECRET", "--secret-file"),
        ("cloud", "HAT_SECRET_FILE", "--secret-file"),
        ("cloud", "HAT_CLOUD_SECRET", "--secret-file"),
        ("cloud", "HAT_CLOUD_TOKENS_FILE", "--tokens-file"),
        ("cloud", "HAT_CLOUD_PORT", "--port"),
        ("device", "HAT_API_KEY", "--api-key-file"),
        ("device", "HAT_DEVICE_CLOUD_PIN", "--cloud-pin"),
    ],
)
def test_what_the_environment_says_is_not_left_out_without_a_word(
    role: str, variable: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has a secret there thinks that the service has one."""
    words = ["service", "install", role, "--user", "--print", str(tmp_path)]
    assert CliRunner().invoke(hat, words).exit_code == 0
    monkeypatch.setenv(variable, "what-it-says")
    for shown in (words, [*words, "--print-config"]):
        refused = CliRunner().invoke(hat, shown)
        assert isinstance(refused.exception, ConfigError)
        assert f"{variable} is set: a service takes nothing" in str(refused.exception)
        assert f"give {flag} with" in str(refused.exception)
        assert "what-it-says" not in str(refused.exception) + refused.output
    if flag in ("--secret-file", "--api-key-file"):
        secret = tmp_path / "secret"
        secret.write_text("s" * 30)
        secret.chmod(0o600)
        told = CliRunner().invoke(hat, [*words, flag, str(secret)])
        assert told.exit_code == 0, told.output


def test_a_bundle_that_only_a_variable_names_is_told_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAT_CLOUD_BUNDLE", "/srv/bundle")
    refused = CliRunner().invoke(hat, ["service", "install", "cloud", "--print"])
    assert "HAT_CLOUD_BUNDLE is set" in str(refused.exception)
    assert "give BUNDLE with its value" in str(refused.exception)
