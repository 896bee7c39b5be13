# What leaves the company: policy in SQL; actions, ledger and webhooks against vendors that fail.
add_executable(outbound_driver ${CMAKE_CURRENT_SOURCE_DIR}/support/outbound_driver.c)
target_link_libraries(outbound_driver PRIVATE engine)
foreach(name policy outbound tries ghl ghl_copy hooks)
  add_test(NAME e2e.${name}
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_${name}.py)
  set_tests_properties(e2e.${name} PROPERTIES LABELS e2e TIMEOUT 300
    ENVIRONMENT "OUTBOUND_DRIVER=$<TARGET_FILE:outbound_driver>;PYTHONDONTWRITEBYTECODE=1")
endforeach()
