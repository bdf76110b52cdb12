"""What a device's settings expose to whom."""

from urllib.parse import urlsplit

from device_runtime.config import DeviceConfig
from process.program.exposure import Notice, is_loopback, key_notices, secret_notices
from wire.limits import MAX_CREDENTIAL_BYTES


def exposure_of(config: DeviceConfig) -> list[Notice]:
    """What the user should know, or what can never work."""
    notices = secret_notices(config.secret, MAX_CREDENTIAL_BYTES)
    notices += key_notices(config.api_key, "the API key")
    if not is_loopback(config.host):
        notices += _open_to_others(config)
    parts = urlsplit(config.cloud)
    if parts.scheme == "ws" and not is_loopback(parts.hostname or ""):
        what = "rows go" if config.secret is None else "the secret and rows go"
        notices.append(Notice(f"{what} to {parts.hostname} unencrypted: let it speak wss://"))
    return notices


def _open_to_others(config: DeviceConfig) -> list[Notice]:
    where = f"on {config.host}"
    notices = []
    if config.api_key is None:
        text = f"whoever reaches this endpoint {where} may ask: give it an --api-key-file"
        notices.append(Notice(text))
    what = "prompts and answers" if config.api_key is None else "prompts, answers and the API key"
    text = f"{what} travel unencrypted {where}: put a proxy with TLS before it"
    return [*notices, Notice(text)]
