# Detection: what the settling unit promises, and the stage with its files on a real database.
add_executable(detect_driver ${CMAKE_CURRENT_SOURCE_DIR}/support/detect_driver.c)
target_link_libraries(detect_driver PRIVATE engine)
foreach(name settle detect)
  add_test(NAME e2e.${name}
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_${name}.py)
  set_tests_properties(e2e.${name} PROPERTIES LABELS e2e TIMEOUT 300
    ENVIRONMENT "DETECT_DRIVER=$<TARGET_FILE:detect_driver>")
endforeach()
