"""Random legal values for settings, and how each source writes them."""

import json
from pathlib import Path

from hypothesis import strategies as st

from hat.settings.programs import C, Program
from hat.settings.setting import Setting, Value
from hat.settings.sources import Given

WORDS = st.text('abcdefghijklmnopqrstuvwxyz-_. é"\\', min_size=1, max_size=12).filter(str.strip)
Layers = dict[str, dict[str, Value]]

FLAGS = "flags"
ENVIRONMENT = "environment"
FILE = "file"


_EXAMPLES = {
    "cloud": ["ws://a:1", "wss://b", "ws://[::1]:7700"],
    "bundle_key": [f"ed25519:{letter * 43}=" for letter in "Ab+"],
    "cloud_pin": [(f"sha256/{'A' * 43}=",), (f"sha256/{'B' * 42}A=", f"sha256//{'/' * 42}8=")],
    "tls_names": [("gpu-server",), ("10.0.0.1", "::1", "*.example")],
    "otlp_endpoint": ["http://127.0.0.1:4318", "https://collector:4318/v1"],
    "congestion_control": ["bbr", "reno", "dctcp-reno"],
}


def values_of(setting: Setting) -> st.SearchStrategy[Value]:
    """Values that are legal for `setting` in every source."""
    about = setting.about
    if setting.name in _EXAMPLES:
        return st.sampled_from(_EXAMPLES[setting.name])
    if setting.name == "vllm_args":
        return st.dictionaries(WORDS, WORDS, max_size=2).map(json.dumps)
    if setting.name == "trusted_proxies":
        networks = st.sampled_from(["10.0.0.1", "10.0.0.0/8", "fd00::/8", "::1"])
        return st.lists(networks, min_size=1, max_size=3).map(tuple)
    if setting.choices:
        return st.sampled_from(setting.choices)
    if setting.base is bool:
        return st.booleans()
    if setting.base is int:
        return st.integers(int(about.minimum or 0), int(about.maximum or 1 << 20))
    if setting.base is float:
        return st.floats(about.minimum or 0, about.maximum or 1e6)
    if setting.base is Path:
        return WORDS.map(lambda word: Path("/etc") / word.strip("~"))
    if setting.base is tuple:
        words = st.text("abc:/.*", min_size=1, max_size=8)
        return st.lists(words, min_size=1, max_size=3).map(tuple)
    return WORDS


def layers_of(program: Program[C]) -> st.SearchStrategy[Layers]:
    """For each source, values of some settings; secrets left out."""
    settings = [setting for setting in program.settings if not setting.about.secret]
    one = st.fixed_dictionaries({}, optional={s.name: values_of(s) for s in settings})
    return st.fixed_dictionaries({FLAGS: one, ENVIRONMENT: one, FILE: one})


def as_text(value: Value) -> str:
    """As a flag or a variable has it."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def as_toml_line(key: str, value: Value) -> str:
    """As a TOML file has it."""
    plain = str(value) if isinstance(value, Path) else value
    return f"{key} = {json.dumps(plain, ensure_ascii=False)}"


def expected_winner(program: Program[C], layers: Layers, setting: Setting, file: Path) -> Given:
    """The value of the strongest source that has the setting, and what the source is called."""
    sources = {
        FLAGS: "argument" if setting.about.argument else setting.flag,
        ENVIRONMENT: program.prefix + setting.name.upper(),
        FILE: f"{file} [{program.name}]",
    }
    for layer, source in sources.items():
        if setting.name in layers[layer]:
            return Given(layers[layer][setting.name], source)
    return Given(setting.default, "default")
