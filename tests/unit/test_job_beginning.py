"""Where a job began, as its receipts tell it."""

from flink_jobs.hand_over import Begun, HandOver
from flink_jobs.job_beginning import detected_beginning, handed_over_beginning

ENDS = {0: 100, 1: 100, 2: 100}


def test_a_job_that_answered_a_first_record_began_with_the_topic_everywhere():
    found = detected_beginning({0: 0, 1: 0, 2: 0}, {0: 0, 1: 3}, ENDS, answers_deleted=False)
    assert (found.offsets, found.older) == ({0: 0, 1: 0, 2: 0}, frozenset())


def test_a_job_that_answered_no_first_record_began_where_it_answered_first():
    found = detected_beginning({0: 0, 1: 0, 2: 0}, {0: 40, 1: 50}, ENDS, answers_deleted=False)
    assert (found.offsets, found.older) == ({0: 40, 1: 50, 2: 100}, frozenset())
    assert found.as_start == "0:40,1:50,2:100"


def test_state_older_than_the_topic_is_known_partition_by_partition():
    found = detected_beginning({0: 10, 1: 0, 2: 10}, {0: 4, 1: 0, 2: 10}, ENDS, answers_deleted=False)
    assert (found.offsets, found.older) == ({0: 10, 1: 0, 2: 10}, frozenset({0}))


def test_where_first_answers_are_deleted_nothing_is_concluded_from_those_that_are_left():
    found = detected_beginning({0: 0, 1: 5, 2: 0}, {0: 40, 1: 50, 2: 60}, ENDS, answers_deleted=True)
    assert (found.offsets, found.older) == ({0: 0, 1: 5, 2: 0}, frozenset({1}))


def handed_over(begins, **facts):
    return HandOver(Begun({}, begins, {0: 100, 1: 200}, "where the topic ends", None), [], facts, [])


def test_a_job_with_a_state_from_the_topic_began_with_that_history_and_answers_only_what_is_live():
    ends = {"products": {"0": 7}}  # as JSON has them
    found = handed_over_beginning(handed_over({0: 10, 1: 20}, row_ends=ends), {0: 0, 1: 50})
    assert found.offsets == {0: 10, 1: 50}
    assert found.older == {1}, "some of its history is deleted"
    assert found.live == {0: 100, 1: 200}
    assert found.row_ends == {"products": {0: 7}}


def test_a_state_from_files_is_older_than_anything_in_the_topic():
    found = handed_over_beginning(handed_over(None), {0: 0, 1: 250})
    assert (found.offsets, found.older) == ({0: 100, 1: 250}, {0, 1})
