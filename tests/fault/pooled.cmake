# The end-to-end suites once more through PgBouncer in transaction mode, in the long tier: what is
# tested reaches the database by it, the tests themselves ask directly.
set(pooler_folder "/tmp/moonwright-pooler-${postgres_name}")
add_test(NAME pooler.start COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/support/pgbouncer
  start ${pooler_folder} ${postgres_folder})
add_test(NAME pooler.stop COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/support/pgbouncer
  stop ${pooler_folder})
set_tests_properties(pooler.start PROPERTIES FIXTURES_SETUP pooler TIMEOUT 60)
set_tests_properties(pooler.stop PROPERTIES FIXTURES_CLEANUP pooler TIMEOUT 60)
foreach(name execute detect outbound ghl hooks sync)
  add_test(NAME pooled.${name} COMMAND bash -c
    "[ -n \"$MOONWRIGHT_LONG\" ] || exit 77; exec /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_${name}.py")
  set_tests_properties(pooled.${name} PROPERTIES LABELS fault SKIP_RETURN_CODE 77 TIMEOUT 900
    FIXTURES_REQUIRED pooler
    ENVIRONMENT "MOONWRIGHT_TEST_POOLER_URL=host=${pooler_folder} dbname=test user=test;UNPREPARED=1;DATABASE_PREPARE=0;EXECUTE_DRIVER=$<TARGET_FILE:execute_driver>;DETECT_DRIVER=$<TARGET_FILE:detect_driver>;OUTBOUND_DRIVER=$<TARGET_FILE:outbound_driver>;SYNC_DRIVER=$<TARGET_FILE:sync_driver>;LUA_DIR=${CMAKE_SOURCE_DIR}/lua;PYTHONDONTWRITEBYTECODE=1")
endforeach()
