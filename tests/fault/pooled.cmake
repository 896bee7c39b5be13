# All end-to-end suites once more through PgBouncer in transaction mode, in the long tier: what is
# tested reaches the database by it, the tests themselves ask directly.
set(pooler_folder "/tmp/moonwright-pooler-${postgres_name}")
add_test(NAME pooler.start COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/support/pgbouncer
  start ${pooler_folder} ${postgres_folder})
add_test(NAME pooler.stop COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/support/pgbouncer
  stop ${pooler_folder})
set_tests_properties(pooler.start PROPERTIES FIXTURES_SETUP pooler TIMEOUT 60)
set_tests_properties(pooler.stop PROPERTIES FIXTURES_CLEANUP pooler TIMEOUT 60)

function(long_test test name)
  add_test(NAME ${test} COMMAND bash -c
    "[ -n \"$MOONWRIGHT_LONG\" ] || exit 77; exec /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_${name}.py")
  set_tests_properties(${test} PROPERTIES LABELS fault SKIP_RETURN_CODE 77 TIMEOUT 900)
endfunction()

get_property(names GLOBAL PROPERTY python_tests)
list(REMOVE_ITEM names settle flow_settle) # ask the database alone
foreach(name ${names})
  get_property(more GLOBAL PROPERTY python_test_${name})
  long_test(pooled.${name} ${name})
  set_tests_properties(pooled.${name} PROPERTIES FIXTURES_REQUIRED pooler ENVIRONMENT
    "MOONWRIGHT_TEST_POOLER_URL=host=${pooler_folder} dbname=test user=test;UNPREPARED=1;DATABASE_PREPARE=0;PYTHONDONTWRITEBYTECODE=1;${more}")
endforeach()

# And those that run the whole program, with four workflow workers.
get_property(names GLOBAL PROPERTY daemon_tests)
list(REMOVE_ITEM names quarantine health latency) # about the lives and figures of one worker
foreach(name ${names})
  get_property(more GLOBAL PROPERTY python_test_${name})
  long_test(four.${name} ${name})
  set_tests_properties(four.${name} PROPERTIES ENVIRONMENT
    "MOONWRIGHT_TEST_WORKERS=4;PYTHONDONTWRITEBYTECODE=1;${more}")
endforeach()
