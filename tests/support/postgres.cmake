# Gives every test a PostgreSQL: ctest starts it before the first test and ends it after the last,
# also when only some tests are asked for. To be included last.
string(SHA1 postgres_name "${CMAKE_BINARY_DIR}")
string(SUBSTRING "${postgres_name}" 0 10 postgres_name)
set(postgres_folder "/tmp/moonwright-test-${postgres_name}")
include(fault/pooled.cmake)

get_property(tests_of_this_folder DIRECTORY PROPERTY TESTS)
set_property(TEST ${tests_of_this_folder} APPEND PROPERTY FIXTURES_REQUIRED postgres)
set_property(TEST ${tests_of_this_folder} APPEND PROPERTY ENVIRONMENT_MODIFICATION
  "MOONWRIGHT_TEST_DATABASE_URL=set:host=${postgres_folder} dbname=test user=test"
  "MOONWRIGHT_PROGRAM=set:${CMAKE_BINARY_DIR}/moonwright"
  "MOONWRIGHT_SOURCE=set:${CMAKE_SOURCE_DIR}")

add_test(NAME postgres.start
  COMMAND ${CMAKE_SOURCE_DIR}/tests/support/postgres start ${postgres_folder})
add_test(NAME postgres.stop
  COMMAND ${CMAKE_SOURCE_DIR}/tests/support/postgres stop ${postgres_folder})
set_tests_properties(postgres.start PROPERTIES FIXTURES_SETUP postgres TIMEOUT 60)
set_tests_properties(postgres.stop PROPERTIES FIXTURES_CLEANUP postgres TIMEOUT 60)
