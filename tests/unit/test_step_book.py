"""What the engine is to open and release with its next step."""

from cloud_server.core.actions import OpenSequence, ReleaseSequence, SequenceHandle, StepWork
from cloud_server.core.step_book import MAX_COMMANDS, StepBook
from wire.messages import Want


def _opening(number: int, fork_of: int | None = None) -> OpenSequence:
    source = None if fork_of is None else SequenceHandle(fork_of)
    return OpenSequence(SequenceHandle(number), 10, source)


def _rows_of(number: int) -> StepWork:
    return StepWork(SequenceHandle(number), 0, 1, Want.LAST, memoryview(bytes(4)))


def _handles(book: StepBook, *items: StepWork) -> list[int]:
    step = book.begin([((None, None), item) for item in items])  # sessions are only kept
    return [each.handle for each in step.commands]


def test_a_sequence_is_opened_with_its_first_rows() -> None:
    book = StepBook(4)
    for number in (1, 2):
        book.open(_opening(number))
    assert book.num_commands == 0
    assert _handles(book, _rows_of(2)) == [2]
    assert _handles(book, _rows_of(2), _rows_of(1)) == [1]
    assert _handles(book, _rows_of(1)) == []


def test_a_sequence_that_ends_before_its_rows_is_never_opened() -> None:
    book = StepBook(4)
    book.open(_opening(1))
    book.release(SequenceHandle(1))
    assert book.num_commands == 0
    assert book.begin([]).commands == ()


def test_a_sequence_is_released_after_its_rows() -> None:
    book = StepBook(4)
    book.open(_opening(1))
    assert _handles(book, _rows_of(1)) == [1]
    book.release(SequenceHandle(1))
    assert book.num_commands == 1
    assert book.begin([]).commands == (ReleaseSequence(SequenceHandle(1)),)
    assert book.num_commands == 0


def test_a_sequence_that_another_is_copied_from_is_opened_although_it_ended() -> None:
    book = StepBook(4)
    book.open(_opening(1))
    book.open(_opening(2, fork_of=1))
    book.release(SequenceHandle(1))
    expected = (_opening(1), _opening(2, fork_of=1), ReleaseSequence(SequenceHandle(1)))
    assert book.begin([]).commands == expected


def test_a_copy_that_ends_before_a_step_is_never_opened() -> None:
    book = StepBook(4)
    book.open(_opening(1))
    book.open(_opening(2, fork_of=1))
    book.release(SequenceHandle(2))
    assert book.begin([]).commands == (_opening(1),)


def test_a_step_has_few_commands_in_their_order() -> None:
    book = StepBook(4)
    for number in range(3 * MAX_COMMANDS):
        book.open(_opening(number, fork_of=99))
    steps = [_handles(book) for _ in range(3)]
    assert [len(each) for each in steps] == [MAX_COMMANDS] * 3
    assert [each for step in steps for each in step] == list(range(3 * MAX_COMMANDS))
    assert book.num_commands == 0


def test_rows_find_their_sequence_open_however_many_were_asked_for_before() -> None:
    book = StepBook(4)
    for number in range(3 * MAX_COMMANDS):
        book.open(_opening(number, fork_of=99))
    assert _handles(book, _rows_of(2 * MAX_COMMANDS)) == list(range(2 * MAX_COMMANDS + 1))


def test_a_copy_is_made_before_rows_of_its_source_that_may_write_over_it() -> None:
    book = StepBook(4)
    for number in range(2 * MAX_COMMANDS):
        book.open(_opening(number, fork_of=99))
    book.open(_opening(50, fork_of=7))
    assert _handles(book, _rows_of(7)) == [*range(2 * MAX_COMMANDS), 50]


def test_a_sequence_is_opened_once_the_room_that_it_counts_on_is_free() -> None:
    book = StepBook(4)
    for number in range(3 * MAX_COMMANDS):
        book.release(SequenceHandle(number))
    book.open(_opening(100))
    assert _handles(book, _rows_of(100)) == [*range(3 * MAX_COMMANDS), 100]
