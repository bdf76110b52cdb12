"""`python -m bench.outside.server URL`: what the endpoint itself counts, to stand between clients.

It is a program, since the endpoint may be reached only from the device's end of the link.
"""

import sys
import time
import urllib.request

import msgspec
from prometheus_client.parser import text_string_to_metric_families

_TTFT = "hat_time_to_first_token_seconds"
_PER_TOKEN = "hat_request_time_per_output_token_seconds"
_READY_S = 60.0
_POLL_S = 0.1


class ServerTimes(msgspec.Struct, frozen=True):
    """Sums over all requests until now: time to the first token, and mean time per token after."""

    num_requests: float
    ttft_sum_s: float
    itl_sum_s: float

    def since(self, before: "ServerTimes") -> tuple[int, float, float]:
        """How many requests came between, their mean TTFT and mean time per token."""
        num = self.num_requests - before.num_requests
        if num <= 0:
            raise ValueError("no request came in between")
        ttft_s = (self.ttft_sum_s - before.ttft_sum_s) / num
        return round(num), ttft_s, (self.itl_sum_s - before.itl_sum_s) / num


def server_times(exposition: str) -> ServerTimes:
    """The sums in the text of `/metrics`."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    names = (f"{_TTFT}_count", f"{_TTFT}_sum", f"{_PER_TOKEN}_sum")
    return ServerTimes(*(sums.get(name, 0.0) for name in names))


def main() -> None:
    """Wait until it is ready, read, and print as JSON."""
    url = sys.argv[1]
    until_s = time.monotonic() + _READY_S
    while not _is_ready(url) and time.monotonic() < until_s:
        time.sleep(_POLL_S)
    with urllib.request.urlopen(f"{url}/metrics", timeout=_READY_S) as response:
        print(msgspec.json.encode(server_times(response.read().decode())).decode())


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=_READY_S):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
