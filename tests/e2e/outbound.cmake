# What leaves the company: policy in SQL; actions, ledger and webhooks against vendors that fail.
add_executable(outbound_driver ${CMAKE_CURRENT_SOURCE_DIR}/support/outbound_driver.c)
target_link_libraries(outbound_driver PRIVATE engine)
foreach(name policy outbound tries ghl ghl_copy hooks)
  python_test(${name} OUTBOUND_DRIVER=$<TARGET_FILE:outbound_driver>)
endforeach()
