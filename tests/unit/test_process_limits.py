"""What a listener takes by default, its log, and what wrong secrets cost."""

import logging

from cloud_server.core.actions import Identity
from cloud_server.daemon.wrong_secrets import WrongSecrets
from process.listening.limits import default_max_connections, default_max_per_address
from process.quiet_log import QuietLog


def test_connections_leave_room_for_other_files():
    assert default_max_connections(None) == 1024
    assert default_max_connections(1 << 20) == 1024
    assert default_max_connections(1024) == 768
    assert default_max_connections(256) == 192
    assert default_max_connections(100) == 36
    assert default_max_connections(10) == 1
    assert default_max_connections(1 << 20, wanted=5000) == 5000
    assert default_max_per_address(768) == 384
    assert default_max_per_address(1) == 1


def test_a_flood_of_lines_is_bounded_and_counted(caplog):
    caplog.set_level(logging.INFO)
    now, due = 0.0, []
    log = QuietLog(
        logging.getLogger("flood"), lambda: now, lambda delay_s, call: due.append(call), burst=5
    )
    for number in range(1000):
        now = number / 100
        log.say(logging.INFO, "line %d", number)
    lines = [each for each in caplog.messages if each.startswith("line")]
    assert 5 <= len(lines) <= 5 + 10
    assert len(due) == 1
    due.pop()()
    counted = sum(int(each.split()[0]) for each in caplog.messages if "left out" in each)
    assert counted == 1000 - len(lines)
    now += 100
    log.say(logging.INFO, "line again")
    assert caplog.messages[-1] == "line again"


def test_a_quiet_log_leaves_nothing_out(caplog):
    caplog.set_level(logging.INFO)
    now = 0.0
    log = QuietLog(logging.getLogger("quiet"), lambda: now, burst=2)
    for number in range(20):
        now = float(number)
        log.say(logging.INFO, "line %d", number)
    assert len(caplog.messages) == 20


def test_wrong_secrets_cost_more_each_time_and_are_forgotten():
    secrets, here, there = WrongSecrets(max_addresses=3), Identity("a"), Identity("b")
    assert secrets.delay_s(here, 0.0) == 0.0
    delays = []
    for _ in range(100):
        secrets.note(here, 0.0)
        delays.append(secrets.delay_s(here, 0.0))
    assert delays[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert max(delays) == delays[-1] == 2.0
    assert secrets.delay_s(there, 0.0) == 0.0
    assert secrets.delay_s(here, 61.0) == 0.0
    for number in range(10):
        secrets.note(Identity(str(number)), 61.0)
    assert len(secrets) == 3
