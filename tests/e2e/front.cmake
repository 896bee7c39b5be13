# What people start: settings, migration, the private PostgreSQL, the supervisor.
foreach(name commands settings install migrate postgres supervisor)
  add_test(NAME e2e.front_${name}
    COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/e2e/front_${name}.sh)
  set_tests_properties(e2e.front_${name} PROPERTIES LABELS e2e TIMEOUT 180)
endforeach()

# Alone: its patience is measured in real seconds.
add_test(NAME e2e.front_demo COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/e2e/front_demo.sh)
set_tests_properties(e2e.front_demo PROPERTIES LABELS e2e TIMEOUT 240 RUN_SERIAL TRUE)
