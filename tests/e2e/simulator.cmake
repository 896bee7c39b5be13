# The simulator's own tests: its oracle over synthetic books, and its protocols over real sockets.
find_program(PYTHON3 python3 PATHS /usr/bin NO_DEFAULT_PATH)
foreach(name oracle protocol)
  add_test(NAME simulator_${name}
    COMMAND ${PYTHON3} ${CMAKE_CURRENT_LIST_DIR}/simulator/${name}_test.py)
  set_tests_properties(simulator_${name} PROPERTIES TIMEOUT 120
    ENVIRONMENT "PYTHONDONTWRITEBYTECODE=1")
endforeach()
