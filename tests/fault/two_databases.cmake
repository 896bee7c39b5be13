# Two databases: the scenario calmly, and in the long tier while processes are killed.
add_test(NAME two_databases
  COMMAND ${CMAKE_CURRENT_LIST_DIR}/two_databases --program $<TARGET_FILE:moonwright>
          --every 0 --days 9 --scale 30000)
add_test(NAME two_databases_killed
  COMMAND ${CMAKE_CURRENT_LIST_DIR}/two_databases --program $<TARGET_FILE:moonwright> --long-tier)
set_tests_properties(two_databases two_databases_killed PROPERTIES
  SKIP_RETURN_CODE 77 TIMEOUT 600)
set_tests_properties(two_databases PROPERTIES RUN_SERIAL TRUE)
