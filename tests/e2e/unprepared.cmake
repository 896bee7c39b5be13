# What the engine does, once more without prepared statements, as behind a pooler of transactions:
# each statement must be right when its parameters' types are all that is known of it.
function(unprepared_test name)
  add_test(NAME e2e.${name}_unprepared
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_${name}.py ${ARGN})
  set_tests_properties(e2e.${name}_unprepared PROPERTIES LABELS e2e TIMEOUT 300
    ENVIRONMENT "UNPREPARED=1;EXECUTE_DRIVER=$<TARGET_FILE:execute_driver>;DETECT_DRIVER=$<TARGET_FILE:detect_driver>;OUTBOUND_DRIVER=$<TARGET_FILE:outbound_driver>;LUA_DIR=${CMAKE_SOURCE_DIR}/lua;PYTHONDONTWRITEBYTECODE=1")
endfunction()

unprepared_test(execute PlainTest FailureTest.test_a_failed_step_is_stuck_and_retried
  FailureTest.test_a_postponed_step_waits_and_goes_on StopTest.test_a_stop_is_judged_by_its_when
  WaitTest.test_a_wait_takes_the_oldest_event_once WaitTest.test_a_wait_is_judged_and_runs_out
  LossTest.test_a_killed_worker_is_taken_over_and_no_step_is_recorded_twice)
unprepared_test(flow RunTest.test_two_workers_have_no_more_than_the_limit_at_work)
unprepared_test(schedule Fires.test_a_fire_is_made_at_its_time_and_by_no_polling
  Outage.test_what_was_missed_is_caught_up_as_declared)
unprepared_test(detect DetectTest.test_rows_become_events_and_instances
  DetectTest.test_arrivals_become_events DetectTest.test_changes_wait_for_their_parents
  DetectTest.test_overdue_invoices_are_found_once_a_day_and_told_once
  TwoDatabases.test_rows_become_events_and_instances)
unprepared_test(outbound SendTest.test_text_is_sent_once_with_our_id_in_its_callback
  SendTest.test_a_step_that_runs_again_gets_what_was_recorded
  SendTest.test_in_doubt_is_found_at_the_vendor SendTest.test_a_person_drops_a_held_send
  SendTest.test_tokens_limit_what_leaves)
