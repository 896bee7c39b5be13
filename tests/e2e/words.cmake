# The words of `run` in the whole program: children, people, undoing.
foreach(name children signals)
  add_test(NAME e2e.${name}
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_${name}.py)
  set_tests_properties(e2e.${name} PROPERTIES LABELS e2e TIMEOUT 300
    ENVIRONMENT "MOONWRIGHT_PROGRAM=$<TARGET_FILE:moonwright>;PYTHONDONTWRITEBYTECODE=1")
endforeach()
