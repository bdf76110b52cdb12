"""What is shown of each side: lines of a name and what there is to say."""

from collections.abc import Iterator

from hat.quantities import UNKNOWN, count, num_bytes, number, rate, seconds, share
from hat.status.asking import SideStatus
from hat.status.samples import Samples

_NAME_WIDTH = 10

Line = tuple[str, str]


def report(now: SideStatus, before: SideStatus | None) -> str:
    """A heading and a few lines; rates are those since `before`."""
    state = "ready" if now.trouble is None else now.trouble
    note = "" if now.note is None else f"; {now.note}"
    heading = f"{now.name:<8}{now.url}  {state}{note}"
    if not now.samples.samples:
        return heading
    past = before if before is not None and before.samples.samples else None
    lines = _device(now, past) if now.name == "device" else _cloud(now, past)
    return "\n".join([heading, *(f"  {each:<{_NAME_WIDTH}}{words}" for each, words in lines)])


def _device(now: SideStatus, before: SideStatus | None) -> Iterator[Line]:
    found = now.samples
    yield "model", found.label("hat_num_requests_running", "model_name") or UNKNOWN
    yield "link", _link(found)
    ended = found.by_label("hat_request_success_total", "finished_reason")
    answered = ended.get("stop", 0) + ended.get("length", 0)
    running = f"{found.count('hat_num_requests_running'):,.0f} running"
    waiting = f"{found.count('hat_num_requests_waiting'):,.0f} waiting"
    failed = f"{ended.get('abort', 0):,.0f} left early, {ended.get('error', 0):,.0f} failed"
    yield "requests", f"{running}, {waiting}; {answered:,.0f} answered, {failed}"
    yield "first", _times(found, "hat_time_to_first_token_seconds")
    yield "tokens", _tokens(now, before)
    drafted = found.count("hat_spec_decode_num_draft_tokens_total")
    accepted = found.count("hat_spec_decode_num_accepted_tokens_total")
    rounds = found.count("hat_rounds_total")
    per_round = number((rounds + accepted) / rounds) if rounds else UNKNOWN
    yield "drafts", f"{share(accepted, drafted)} accepted; {per_round} tokens per round"
    up, down = "hat_uplink_bytes_total", "hat_downlink_bytes_total"
    yield "traffic", _traffic(now, before, (up, "up"), (down, "down"))
    yield "build", _build(found)


def _cloud(now: SideStatus, before: SideStatus | None) -> Iterator[Line]:
    found = now.samples
    devices = count(found.count("hat_cloud_connections"), "device")
    sessions = count(found.count("hat_cloud_sessions"), "session")
    detached = f"{found.count('hat_cloud_detached_sessions'):,.0f} of them waiting for their device"
    yield "devices", f"{devices}, {sessions}, {detached}"
    capacity = found.count("hat_cloud_kv_cache_capacity_tokens")
    used = found.count("hat_cloud_kv_cache_usage_perc") * capacity
    yield "KV cache", f"{share(used, capacity)} tokens"
    yield "host", _host_memory(found)
    rows_each = number(found.mean("hat_cloud_batch_tokens"))
    yield "steps", f"{_times(found, 'hat_cloud_step_seconds')}; {rows_each} rows each"
    prompts = f"{found.count('hat_cloud_prefill_tokens_total'):,.0f} of prompts"
    verified = f"{found.count('hat_cloud_verify_tokens_total'):,.0f} of verifications"
    waiting = f"{found.count('hat_cloud_queued_tokens'):,.0f} waiting"
    yield "rows", f"{prompts}, {verified}; {waiting}"
    received, sent = "hat_cloud_received_bytes_total", "hat_cloud_sent_bytes_total"
    yield "traffic", _traffic(now, before, (received, "in"), (sent, "out"))
    faults = {code: n for code, n in found.by_label("hat_cloud_faults_total", "code").items() if n}
    yield "faults", ", ".join(f"{n:,.0f} {code}" for code, n in sorted(faults.items())) or "none"
    yield "build", _build(found)


def _build(found: Samples) -> str:
    """Which program runs there; one of earlier days does not say."""
    said = {each: found.label("hat_build_info", each) for each in ("version", "commit", "engine")}
    number_format = found.label("hat_build_info", "number_format")
    words = f"{said['version']}, commit {said['commit']}; {said['engine']}, {number_format}"
    return UNKNOWN if None in said.values() else words


def _link(found: Samples) -> str:
    state = "connected" if found.count("hat_link_connected") else "no cloud"
    delay = seconds(found.value("hat_link_delay_seconds"))
    up = rate(found.value("hat_link_uplink_bytes_per_second"))
    down = rate(found.value("hat_link_downlink_bytes_per_second"))
    made = count(found.count("hat_link_num_connections"), "connection")
    num_lanes = found.count("hat_link_num_lanes")
    lanes = f", {num_lanes:,.0f} further ones for prompts now" if num_lanes else ""
    return f"{state}; {delay} there and back, {up} up, {down} down; {made} so far{lanes}"


def _host_memory(found: Samples) -> str:
    """Idle sessions that have left the KV cache."""
    kept = count(found.count("hat_cloud_host_sessions"), "idle session")
    used = found.count("hat_cloud_host_cache_tokens")
    in_all = share(used, found.count("hat_cloud_host_cache_capacity_tokens"))
    saved = f"{found.count('hat_cloud_host_saves_total'):,.0f} saved"
    restored = f"{found.count('hat_cloud_host_restores_total'):,.0f} brought back"
    dropped = f"{found.count('hat_cloud_host_drops_total'):,.0f} dropped"
    return f"{kept}, {in_all} tokens; {saved}, {restored}, {dropped}"


def _times(found: Samples, histogram: str) -> str:
    median, most = found.quantile(histogram, 0.5), found.quantile(histogram, 0.95)
    return f"median {seconds(median)}, 95 % within {seconds(most)}"


def _tokens(now: SideStatus, before: SideStatus | None) -> str:
    """Generated tokens and their pace: now, if there is a before, else that of a usual answer."""
    made, asked = "hat_generation_tokens_total", "hat_prompt_tokens_total"
    token_s = now.samples.quantile("hat_request_time_per_output_token_seconds", 0.5)
    pace = f"{number(1 / token_s if token_s else None)} per second in a usual answer"
    if before is not None:
        pace = f"{number(_per_s(now, before, made))} per second now"
    generated = f"{now.samples.count(made):,.0f} generated"
    return f"{generated}, {pace}; {now.samples.count(asked):,.0f} of prompts"


def _traffic(now: SideStatus, before: SideStatus | None, *ways: tuple[str, str]) -> str:
    return ", ".join(_way(now, before, name, way) for name, way in ways)


def _way(now: SideStatus, before: SideStatus | None, name: str, way: str) -> str:
    total = f"{num_bytes(now.samples.count(name))} {way}"
    return total if before is None else f"{total} ({rate(_per_s(now, before, name))})"


def _per_s(now: SideStatus, before: SideStatus, name: str) -> float | None:
    """How fast a counter grew; one that began anew says nothing."""
    grown = now.samples.count(name) - before.samples.count(name)
    passed_s = now.at_s - before.at_s
    return grown / passed_s if grown >= 0 and passed_s > 0 else None
