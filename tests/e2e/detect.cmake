# Detection: what the settling unit promises, and the stage with its files on a real database.
add_executable(detect_driver ${CMAKE_CURRENT_SOURCE_DIR}/support/detect_driver.c)
target_link_libraries(detect_driver PRIVATE engine)
python_test(settle)
python_test(flow_settle)
python_test(zones LUA=${LUA} LUA_PATH=${CMAKE_SOURCE_DIR}/lua/?.lua LUA_CPATH=${CMAKE_BINARY_DIR}/lua/?.so
  LUA_PRELOAD=${asan}) # empty, but under ASan
python_test(schedule DETECT_DRIVER=$<TARGET_FILE:detect_driver>)
python_test(detect DETECT_DRIVER=$<TARGET_FILE:detect_driver>)
python_test(versions DETECT_DRIVER=$<TARGET_FILE:detect_driver>)
python_test(fleet)
python_test(latency)
