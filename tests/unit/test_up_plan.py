"""What `hat up` decides before it starts anything: bundles, ports, commands, words."""

import os
import shlex
import socket
import sys
from pathlib import Path

import pytest

from cloud_server.config import CloudConfig
from device_runtime.config import DeviceConfig
from hat.bundle_cache import cache_folder, cached_bundle, is_sound
from hat.errors import CommandError
from hat.settings.sources import Given, Resolved, Sources
from hat.splitting import SplitRequest, small_model, split_model
from hat.up.first_steps import first_steps, has_chat_template
from hat.up.plan import (
    reachable_host,
    require_free_port,
    sides,
    up_settings,
)
from process.errors import ConfigError
from submodels.plan.checks import default_input_layers

REQUEST = SplitRequest(None, None, "keep", ())
CHILD = (sys.executable, "-m", "hat.child")
NO_KEY = Given(None, "default")


def _settings(
    cloud: dict[str, str] | None = None,
    device: dict[str, str] | None = None,
    environ: dict[str, str] | None = None,
    file: Path | None = None,
) -> tuple[Resolved[CloudConfig], Resolved[DeviceConfig]]:
    sources = [Sources(flags or {}, environ or {}, file) for flags in (cloud, device)]
    return up_settings(*sources)


@pytest.mark.parametrize(
    ("num_layers", "num_input_layers"),
    [(1, 0), (2, 1), (5, 1), (8, 1), (9, 2), (32, 2), (36, 2), (37, 3), (40, 3), (80, 3)],
)
def test_the_default_split_follows_the_depth(num_layers: int, num_input_layers: int) -> None:
    assert default_input_layers(num_layers) == num_input_layers


def test_the_shipped_model_is_found() -> None:
    assert (small_model() / "model.safetensors").is_file()


def test_the_cache_folder_can_be_chosen() -> None:
    assert cache_folder({"HAT_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/hat")
    assert cache_folder({}).is_relative_to(Path.home())


def test_a_bundle_is_kept_until_source_or_options_change(tmp_path: Path) -> None:
    model = tmp_path / "My model!"
    model.mkdir()
    (model / "config.json").write_text("{}")
    first = cached_bundle(tmp_path, "org/My model!", model, REQUEST)
    assert first.parent == tmp_path / "bundles"
    assert first.name.startswith("My-model-")
    assert cached_bundle(tmp_path, "org/My model!", model, REQUEST) == first
    others = [
        cached_bundle(tmp_path, "other", model, REQUEST),
        cached_bundle(tmp_path, "org/My model!", model, SplitRequest(2, None, "keep", ())),
    ]
    os.utime(model / "config.json", ns=(1, 1))
    others.append(cached_bundle(tmp_path, "org/My model!", model, REQUEST))
    (model / "config.json").write_text("{ }")
    others.append(cached_bundle(tmp_path, "org/My model!", model, REQUEST))
    assert len({first, *others}) == 5


def test_a_damaged_bundle_is_not_used_again(tmp_path: Path) -> None:
    split_model(str(small_model()), small_model(), tmp_path / "b", REQUEST)
    assert is_sound(tmp_path / "b")
    weights = tmp_path / "b" / "cloud" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not is_sound(tmp_path / "b")
    assert not is_sound(tmp_path / "none")


def test_a_port_in_use_is_named_with_the_flag_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandError) as caught:
            require_free_port("127.0.0.1", port, "--cloud-port")
    assert str(caught.value) == (
        f"port {port} of 127.0.0.1 is in use; choose another with --cloud-port"
    )
    require_free_port("127.0.0.1", port, "--cloud-port")


def test_a_host_that_is_not_this_machine_is_refused() -> None:
    # 192.0.2.0/24 is set aside for documentation and is nobody's (RFC 5737).
    with pytest.raises(CommandError, match=r"cannot listen on 192\.0\.2\.1 port 8000"):
        require_free_port("192.0.2.1", 8000, "--port")


@pytest.mark.parametrize(
    ("host", "reachable"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost")],
)
def test_a_server_on_all_addresses_is_reached_over_loopback(host: str, reachable: str) -> None:
    assert reachable_host(host) == reachable


def test_both_sides_get_their_flags_and_one_fresh_secret(tmp_path: Path) -> None:
    config = tmp_path / "hat.toml"
    config.write_text("[device]\nport = 81\n")
    settings = _settings({"port": "77"}, {"drafter": "none"}, {"HAT_DEVICE_HOST": "::1"}, config)
    environ = {"PATH": "/bin", "HAT_SECRET": "mine", "HAT_CLOUD_SECRET_FILE": "f"}
    cloud, device = sides(*settings, Path("b"), environ)
    assert cloud.command == (
        *(*CHILD, "cloud", "b/cloud", "--host=127.0.0.1", "--port=77"),
        f"--config={config}",
    )
    assert device.command == (
        *(*CHILD, "device", "b/device", "--host=::1", "--port=81", "--cloud=ws://127.0.0.1:77"),
        *("--drafter=none", f"--config={config}"),
    )
    assert device.ready_url == "http://[::1]:81/ready"
    secret = cloud.environ["HAT_CLOUD_SECRET"]
    assert len(secret) > 30
    assert secret not in " ".join((*cloud.command, *device.command))
    assert device.environ["HAT_DEVICE_SECRET"] == secret
    assert cloud.environ["PATH"] == "/bin"
    assert "HAT_CLOUD_SECRET_FILE" not in cloud.environ
    assert sides(*settings, Path("b"), environ)[0].environ["HAT_SECRET"] != secret


def test_sides_that_would_share_a_port_or_use_tls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--port and --cloud-port are both 9"):
        _settings({"port": "9"}, {"port": "9"})
    with pytest.raises(ConfigError, match="without TLS; remove tls_key"):
        _settings(environ={"HAT_CLOUD_TLS_KEY": "k"})
    with pytest.raises(ConfigError, match="without TLS; remove tls_self_signed"):
        _settings(environ={"HAT_CLOUD_TLS_SELF_SIGNED": "true"})


@pytest.mark.parametrize(
    ("cloud", "device", "figures"),
    [("77", "81", None), ("77", "78", 76), ("65535", "65534", 65533), ("65534", "65535", 65533)],
)
def test_figures_leave_the_devices_port_alone(cloud: str, device: str, figures: int | None) -> None:
    command = sides(*_settings({"port": cloud}, {"port": device}), Path("b"), {})[0].command
    named = [word for word in command if word.startswith("--metrics-port")]
    assert named == ([] if figures is None else [f"--metrics-port={figures}"])


def test_a_base_model_is_shown_with_a_story_and_a_chat_model_with_a_question() -> None:
    base = first_steps("127.0.0.1:8000", NO_KEY, is_chat_model=False)
    assert "/v1/completions" in base
    assert "/v1/chat/completions" in base
    chat = first_steps("127.0.0.1:8000", NO_KEY, is_chat_model=True)
    assert "/v1/completions" not in chat
    assert chat.rstrip().splitlines()[-2].endswith(" chat")


def test_printed_requests_fetch_the_key_and_never_show_it(tmp_path: Path) -> None:
    from_variable = Given("hidden", "HAT_API_KEY")
    text = first_steps("127.0.0.1:81", from_variable, is_chat_model=True)
    assert '-H "Authorization: Bearer $HAT_API_KEY"' in text
    assert "--url=http://127.0.0.1:81/v1" in text
    from_file = Given("hidden", "--api-key-file", Path("my key"))
    text += first_steps("127.0.0.1:8000", from_file, is_chat_model=True)
    assert "Bearer $(cat 'my key')" in text
    assert "hidden" not in text
    assert shlex.split(text.splitlines()[-2])[-1] == "--api-key-file=my key"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("chat_template.jinja", "x", True),
        ("tokenizer_config.json", '{"chat_template": "x"}', True),
        ("tokenizer_config.json", "{}", False),
        ("tokenizer_config.json", "[", False),
        ("other", "", False),
    ],
)
def test_a_chat_model_is_one_with_a_chat_template(
    tmp_path: Path, name: str, content: str, expected: bool
) -> None:
    (tmp_path / name).write_text(content)
    assert has_chat_template(tmp_path) is expected
