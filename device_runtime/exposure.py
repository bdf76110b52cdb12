"""What a device's settings expose to whom."""

from urllib.parse import urlsplit

from device_runtime.config import DeviceConfig
from process.program.exposure import Notice, is_loopback, key_notices, secret_notices
from wire.limits import MAX_CREDENTIAL_BYTES


def exposure_of(config: DeviceConfig) -> list[Notice]:
    """What the user should know, or what can never work."""
    notices = link_exposure_of(config)
    notices += key_notices(config.api_key, "the API key")
    if not is_loopback(config.host):
        notices += _open_to_others(config)
    return notices


def link_exposure_of(config: DeviceConfig) -> list[Notice]:
    """The same of the link to the cloud alone."""
    notices = secret_notices(config.secret, MAX_CREDENTIAL_BYTES)
    parts = urlsplit(config.cloud)
    if parts.scheme == "ws" and not is_loopback(parts.hostname or ""):
        what = "rows" if config.secret is None else "the secret and rows"
        to = f"to {parts.hostname} unencrypted"
        if config.insecure:
            notices.append(Notice(f"{what} go {to}, as --insecure has it"))
        else:
            advice = "use wss://, for which `hat cloud --tls-self-signed` prints what to say"
            text = f"{what} would go {to}: {advice}; or add --insecure"
            notices.append(Notice(text, fatal=True))
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
