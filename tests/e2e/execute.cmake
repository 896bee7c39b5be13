# Running instances: real worker processes on a real database, with actions that only leave a row.
add_executable(execute_driver ${CMAKE_CURRENT_SOURCE_DIR}/support/execute_driver.c)
target_link_libraries(execute_driver PRIVATE engine)
add_test(NAME e2e.execute COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_execute.py)
set_tests_properties(e2e.execute PROPERTIES LABELS e2e TIMEOUT 300
  ENVIRONMENT "EXECUTE_DRIVER=$<TARGET_FILE:execute_driver>;LUA_DIR=${CMAKE_SOURCE_DIR}/lua")
