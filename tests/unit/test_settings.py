"""Settings: what is refused, and with which words."""

from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest

from hat.settings.print_config import as_toml
from hat.settings.programs import CLOUD, DEVICE
from hat.settings.sources import Sources, load
from process.errors import ConfigError
from process.program.about import abouts, tcp_port


def _refusal(program: Any, sources: Sources) -> str:
    with pytest.raises(ConfigError) as caught:
        load(program, sources)
    return str(caught.value)


def _file(folder: Path, text: str) -> Path:
    path = folder / "hat.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"port": "0"}, "--port: expected at least 1, got 0"),
        ({"port": "65536"}, "--port: expected at most 65535, got 65536"),
        ({"port": "http"}, "--port: expected an integer, got 'http'"),
        ({"threads": "0"}, "--threads: expected at least 1, got 0"),
        ({"max_sessions": "32k"}, "--max-sessions: expected an integer, got '32k'"),
        ({"capacity_tokens": "0"}, "--capacity-tokens: expected at least 1, got 0"),
        ({"capacity_tokens": "1.5"}, "expected a whole number of tokens, got '1.5'"),
        ({"session_ttl_s": "nan"}, "--session-ttl-s: expected a finite number, got nan"),
        ({"session_ttl_s": "-1"}, "--session-ttl-s: expected at least 0, got -1.0"),
        ({"log_level": "loud"}, "--log-level: expected one of debug, info, warning, error"),
        ({"host": " "}, "--host: expected some text, got ' '"),
    ],
)
def test_a_wrong_flag_is_refused_with_what_was_expected(
    flags: dict[str, str], expected: str
) -> None:
    assert expected in _refusal(CLOUD, Sources(flags, {}))


@pytest.mark.parametrize("setting", ["cloud", "otlp_endpoint"])
@pytest.mark.parametrize("scheme", ["grpc", "wss"])
def test_a_password_in_an_address_is_refused_for_the_cloud_and_never_shown(
    setting: str, scheme: str
) -> None:
    """A service's log would keep it."""
    flags = {"bundle": "bundle", setting: f"{scheme}://who:hush@gpu-server:7700"}
    refusal = _refusal(DEVICE, Sources(flags, {}))
    assert f"got '{scheme}://...@gpu-server:7700'" in refusal
    assert "hush" not in refusal


@pytest.mark.parametrize(
    "url", ["http://a:1", "ws://", "gpu-server:7700", "ws://a:99999", "ws://["]
)
def test_the_cloud_address_must_be_a_websocket_url(url: str) -> None:
    expected = (
        f"--cloud: expected a URL like ws://gpu-server:7700 or wss://gpu-server:7700, got {url!r}"
    )
    assert expected in _refusal(DEVICE, Sources({"cloud": url}, {}))


def test_an_unknown_variable_is_refused_with_the_closest_name() -> None:
    message = _refusal(CLOUD, Sources({}, {"HAT_CLOUD_PROT": "1"}))
    assert message == "unknown environment variable HAT_CLOUD_PROT; did you mean HAT_CLOUD_PORT?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cloud]\nprot = 1", "[cloud]: unknown key prot; did you mean port?"),
        ("[cluod]\nport = 1", "unknown table or key cluod; did you mean cloud?"),
        ("port = 1", "unknown table or key port; expected [cloud] and [device]"),
        ("cloud = 1", "expected a table [cloud], got cloud = 1"),
        ("[cloud]\nport = '7700'", "[cloud] port: expected an integer, got '7700'"),
        ("[cloud]\nport = true", "[cloud] port: expected an integer, got True"),
        ("[cloud]\nport = 70000", "[cloud] port: expected at most 65535, got 70000"),
        ("[cloud]\nsession_ttl_s = inf", "session_ttl_s: expected a finite number, got inf"),
        ("[cloud]\nhost = 1", "[cloud] host: expected text, got 1"),
        ("[cloud]\nsecret = 'x'", "unknown key secret; did you mean secret_file?"),
        ("[cloud]\nsecret_file = 1", "secret_file: expected a path, got 1"),
        ("[cloud\n", "is not TOML:"),
        ("\udcff", "is not TOML:"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "hat.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    message = _refusal(CLOUD, Sources({}, {}, path))
    assert message.startswith(str(path))
    assert expected in message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    message = _refusal(CLOUD, Sources({}, {}, tmp_path / "none.toml"))
    assert message == f"cannot read --config {tmp_path}/none.toml: no such file or directory"


def test_the_other_programs_table_is_left_alone(tmp_path: Path) -> None:
    path = _file(tmp_path, "[cloud]\nport = 1\n[device]\nport = 2\n")
    assert load(CLOUD, Sources({}, {}, path)).value("port") == 1
    assert load(DEVICE, Sources({}, {}, path)).value("port") == 2


def test_a_wrong_value_is_an_error_even_when_a_flag_overrides_it(tmp_path: Path) -> None:
    path = _file(tmp_path, "[cloud]\nport = 0\n")
    assert "expected at least 1" in _refusal(CLOUD, Sources({"port": "7"}, {}, path))


def test_paths_in_a_file_start_at_the_files_folder(tmp_path: Path) -> None:
    path = _file(tmp_path, "[cloud]\nbundle = 'stories/cloud'\n")
    assert load(CLOUD, Sources({}, {}, path)).value("bundle") == tmp_path / "stories" / "cloud"
    assert load(CLOUD, Sources({"bundle": "b"}, {}, path)).value("bundle") == Path("b")


def test_token_counts_in_a_file_may_be_written_with_a_suffix(tmp_path: Path) -> None:
    path = _file(tmp_path, "[device]\nmax_model_len = '32K'\n")
    assert load(DEVICE, Sources({}, {}, path)).value("max_model_len") == 32768


def test_an_address_that_kubernetes_injected_is_ignored_and_explained() -> None:
    environ = {
        "HAT_CLOUD_PORT": "tcp://10.96.0.7:7700",
        "HAT_CLOUD_SERVICE_HOST": "10.96.0.7",
        "HAT_CLOUD_SERVICE_PORT": "7700",
        "HAT_CLOUD_SERVICE_PORT_METRICS": "7701",
        "HAT_CLOUD_PORT_7700_TCP": "tcp://10.96.0.7:7700",
        "HAT_CLOUD_PORT_7700_TCP_PROTO": "tcp",
        "HAT_CLOUD_PORT_7700_TCP_PORT": "7700",
        "HAT_CLOUD_PORT_7700_TCP_ADDR": "10.96.0.7",
        "HAT_CLOUD_METRICS_PORT": "tcp://10.96.0.8:7700",
    }
    resolved = load(CLOUD, Sources({}, environ))
    assert resolved.given["port"].source == "default"
    assert resolved.given["metrics_port"].source == "default"
    port, figures = resolved.notes
    assert port.startswith("ignoring HAT_CLOUD_PORT=tcp://10.96.0.7:7700: Kubernetes sets it")
    assert "called hat-cloud. Use --port" in port
    assert "called hat-cloud-metrics. Use --metrics-port" in figures


def test_an_empty_variable_counts_as_not_set() -> None:
    environ = {"HAT_CLOUD_PORT": "", "HAT_CLOUD_UNKNOWN": ""}
    assert load(CLOUD, Sources({}, environ)).given["port"].source == "default"


def test_the_specific_secret_wins_over_the_shared_one() -> None:
    environ = {"HAT_SECRET": "shared", "HAT_CLOUD_SECRET": "own"}
    given = load(CLOUD, Sources({}, environ)).given["secret"]
    assert (given.value, given.source) == ("own", "HAT_CLOUD_SECRET")


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_a_secret_can_be_in_a_file_and_loses_its_newline(tmp_path: Path, source: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s3cret~!\r\n")
    path = _file(tmp_path, "[device]\napi_key_file = 'secret'\n")
    sources = {
        "flag": Sources({"api_key_file": str(secret)}, {}),
        "variable": Sources({}, {"HAT_API_KEY_FILE": str(secret)}),
        "file": Sources({}, {}, path),
    }[source]
    given = load(DEVICE, sources).given["api_key"]
    assert (given.value, given.file) == ("s3cret~!", secret)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"two\nlines", b"\xff", b"x" * 4097])
def test_an_unusable_secret_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    message = _refusal(CLOUD, Sources({"secret_file": str(secret)}, {}))
    assert message.startswith(f"--secret-file {secret}: expected ")
    assert "two" not in message.removeprefix(f"--secret-file {secret}")


def test_a_secret_both_as_value_and_as_file_is_refused() -> None:
    environ = {"HAT_SECRET": "x", "HAT_SECRET_FILE": "y"}
    message = _refusal(CLOUD, Sources({}, environ))
    assert message == "HAT_SECRET and HAT_SECRET_FILE are both set; keep one"


def test_printed_settings_never_show_a_secret() -> None:
    environ = {"HAT_SECRET": "do-not-show", "HAT_API_KEY": "nor-this"}
    printed = as_toml(load(DEVICE, Sources({}, environ)))
    assert "do-not-show" not in printed
    assert "nor-this" not in printed
    assert "# secret is set: ********" in printed


def test_a_pin_that_is_none_is_shown_as_it_was_given() -> None:
    message = _refusal(DEVICE, Sources({"cloud_pin": "sha256/..."}, {}))
    assert message.startswith("--cloud-pin: expected sha256/ and ")
    assert message.endswith("got 'sha256/...'")


def test_a_missing_bundle_is_named_with_its_three_places() -> None:
    with pytest.raises(ConfigError, match=r"missing BUNDLE \(or HAT_CLOUD_BUNDLE, or bundle"):
        load(CLOUD, Sources({}, {})).config()


def test_a_config_field_without_a_description_is_an_error() -> None:
    config = make_dataclass("Config", [("host", str, tcp_port(1, "of it")), ("port", int, 7)])
    with pytest.raises(TypeError, match=r"Config\.port"):
        abouts(config)
