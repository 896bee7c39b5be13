# Running instances: real worker processes on a real database, with actions that only leave a row.
add_executable(execute_driver ${CMAKE_CURRENT_SOURCE_DIR}/support/execute_driver.c)
target_link_libraries(execute_driver PRIVATE engine)
python_test(execute EXECUTE_DRIVER=$<TARGET_FILE:execute_driver> LUA_DIR=${CMAKE_SOURCE_DIR}/lua)
python_test(flow EXECUTE_DRIVER=$<TARGET_FILE:execute_driver> LUA_DIR=${CMAKE_SOURCE_DIR}/lua)
